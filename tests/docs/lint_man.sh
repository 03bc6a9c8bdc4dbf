#!/usr/bin/env bash
# Reads manual pages with the checkers that are installed; exit code 77 where there is none.
#   lint_man.sh FOLDER
set -euo pipefail
checked=
fail() {
  echo "$1" >&2
  exit 1
}
[ -n "$(find "$1" -name '*.1')" ] || fail "no pages in $1"
for page in "$1"/*.1; do
  if command -v groff >/dev/null; then
    checked+=g
    problems=$(groff -man -ww -Tutf8 -z "$page" 2>&1)
    [ -z "$problems" ] || fail "$page: $problems"
  fi
  if command -v mandoc >/dev/null; then
    checked+=m
    # Pages have no date, so that equal programs have equal pages.
    problems=$(mandoc -Tlint -Wwarning "$page" | grep -v 'missing date' || true)
    [ -z "$problems" ] || fail "$page: $problems"
  fi
done
if [ -z "$checked" ]; then
  echo "skipped: neither groff nor mandoc is installed"
  exit 77
fi
echo "checks: ${#checked}"
