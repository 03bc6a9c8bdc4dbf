// Run by the build: writes the manual pages of `quant` into a folder.
#include <cstdio>
#include <exception>
#include <fstream>

#include "app.h"
#include "man_pages.h"
#include "quant/version.h"
#include "session.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  try {
    quant::cli::Session session;
    CLI::App program;
    quant::cli::describe_program(program, session);
    const std::string version = "quant " + std::string(quant::version());
    for (const quant::cli::ManPage& page : quant::cli::man_pages(program, version)) {
      std::ofstream out(std::string(argv[1]) + "/" + page.file, std::ios::binary);
      out << page.text;
      if (!out.flush()) throw std::runtime_error(page.file + " cannot be written");
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
