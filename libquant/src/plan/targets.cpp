#include "plan/targets.h"

#include <algorithm>
#include <tuple>

#include "quant/error.h"
#include "quant/names.h"

namespace quant::plan_detail {
namespace {

struct CompiledPattern {
  NamePattern pattern;
  const Pattern* source;
  std::size_t scheme;  // of the modifier; unused for ignore entries
  bool hit = false;
};

struct CompiledModifier {
  std::vector<CompiledPattern> targets;  // sorted: a later search takes the first of the best kind
  std::vector<CompiledPattern> ignore;
};

CompiledModifier compile(const RecipeModifier& modifier) {
  CompiledModifier compiled;
  for (std::size_t s = 0; s < modifier.schemes.size(); ++s) {
    for (const Pattern& target : modifier.schemes[s].targets) {
      compiled.targets.push_back({NamePattern(target.text), &target, s});
    }
  }
  for (const Pattern& target : modifier.targets) compiled.targets.push_back({NamePattern(target.text), &target, 0});
  std::stable_sort(compiled.targets.begin(), compiled.targets.end(),
                   [](const auto& a, const auto& b) { return a.source->text < b.source->text; });
  for (const Pattern& entry : modifier.ignore) compiled.ignore.push_back({NamePattern(entry.text), &entry, 0});
  return compiled;
}

// Exact names win over regexes, regexes over classes; within a kind the alphabetically first.
CompiledPattern* best_target(CompiledModifier& modifier, const Module& module) {
  CompiledPattern* best = nullptr;
  NamePattern::Kind best_kind{};
  for (CompiledPattern& candidate : modifier.targets) {
    const auto kind = candidate.pattern.match(module.name, module.class_name);
    if (!kind) continue;
    candidate.hit = true;
    if (best == nullptr || *kind < best_kind) {
      best = &candidate;
      best_kind = *kind;
    }
  }
  return best;
}

const CompiledPattern* find_ignore(CompiledModifier& modifier, const Module& module) {
  const CompiledPattern* found = nullptr;
  for (CompiledPattern& candidate : modifier.ignore) {
    if (!candidate.pattern.match(module.name, module.class_name)) continue;
    candidate.hit = true;
    if (found == nullptr) found = &candidate;
  }
  return found;
}

bool can_quantize(const Module& module) { return module.class_name == "Linear" || module.class_name == "Embedding"; }

std::string reason_without_target(const Module& module) {
  if (module.class_name == "Norm") return "a norm";
  if (module.class_name == "Conv1D") return "a transposed linear (Conv1D): not supported";
  if (module.class_name == "Other") return "no matrix";
  return "no target matches";
}

void assign_module(const Recipe& recipe, const Module& module, std::vector<CompiledModifier>& modifiers,
                   Assignment& result, Plan& plan) {
  for (std::size_t m = 0; m < modifiers.size(); ++m) {
    if (recipe.modifiers[m].schemes.empty()) continue;
    CompiledPattern* target = best_target(modifiers[m], module);
    const CompiledPattern* ignored = find_ignore(modifiers[m], module);
    if (target == nullptr || !can_quantize(module)) continue;
    result.class_targeted = true;
    const RecipeScheme& scheme = recipe.modifiers[m].schemes[target->scheme];
    if (ignored != nullptr) {
      result.reason = "ignored by '" + ignored->source->text + "'";
    } else if (module.weight == nullptr) {
      result.reason = "tied to the embedding";
    } else if (!scheme.scheme.weights) {
      result.reason = "scheme '" + scheme.name + "' leaves weights as they are";
    } else if (result.modifier >= 0) {
      plan.problems.push_back(module.name + " is quantized twice: by target '" + result.rule + "' of " +
                              recipe.modifiers[static_cast<std::size_t>(result.modifier)].where.to_string() +
                              " and by '" + target->source->text + "' of " + recipe.modifiers[m].where.to_string() +
                              "; add it to the 'ignore' of one of them");
    } else {
      result.modifier = static_cast<int>(m);
      result.scheme = static_cast<int>(target->scheme);
      result.rule = target->source->text;
    }
  }
  if (result.modifier < 0 && result.reason.empty()) result.reason = reason_without_target(module);
}

// Pruning leaves what lies outside of the decoder layers alone, unless it is named: so do all published results.
bool in_layer(const std::string& module) {
  for (std::size_t dot = module.find('.'); dot != std::string::npos; dot = module.find('.', dot + 1)) {
    const std::size_t end = std::min(module.find('.', dot + 1), module.size());
    const bool digits = end > dot + 1 && std::all_of(module.begin() + static_cast<std::ptrdiff_t>(dot) + 1,
                                                     module.begin() + static_cast<std::ptrdiff_t>(end),
                                                     [](char c) { return c >= '0' && c <= '9'; });
    if (digits) return true;
  }
  return false;
}

void assign_pruning(const Recipe& recipe, const Module& module, std::vector<CompiledModifier>& modifiers,
                    Assignment& result) {
  for (std::size_t m = 0; m < modifiers.size(); ++m) {
    if (recipe.modifiers[m].targets.empty()) continue;
    CompiledPattern* target = best_target(modifiers[m], module);
    const CompiledPattern* ignored = find_ignore(modifiers[m], module);
    if (target == nullptr || module.class_name != "Linear") continue;
    if (ignored != nullptr) {
      if (result.reason.empty()) result.reason = "ignored by '" + ignored->source->text + "'";
      continue;
    }
    if (module.weight == nullptr) {
      if (result.reason.empty()) result.reason = "tied to the embedding, which is not pruned";
      continue;
    }
    const bool named = target->pattern.match(module.name, "").has_value();
    if (!named && !in_layer(module.name)) {
      if (result.reason.empty()) result.reason = "outside of the decoder layers: pruned only if a target names it";
      continue;
    }
    result.pruning.emplace_back(m, target->source->text);
  }
}

void warn_of_idle_patterns(const std::vector<CompiledPattern>& patterns, const char* what, const ModelOutline& outline,
                           Plan& plan) {
  for (const CompiledPattern& entry : patterns) {
    if (entry.hit) continue;
    std::string text =
        entry.source->where.to_string() + ": " + what + " '" + entry.source->text + "' matches no module";
    std::vector<std::string> names;
    for (const Module& module : outline.modules) names.push_back(module.name);
    const std::string near = nearest_name(entry.source->text, names);
    if (!near.empty()) text += "; did you mean '" + near + "'?";
    plan.warnings.push_back(std::move(text));
  }
}

bool is_ignored(const Recipe& recipe, const std::string& name, std::string_view class_name) {
  for (const RecipeModifier& modifier : recipe.modifiers) {
    for (const Pattern& entry : modifier.ignore) {
      if (NamePattern(entry.text).match(name, class_name)) return true;
    }
  }
  return false;
}

void warn_of(const std::vector<std::string>& names, const char* what, const char* why, Plan& plan) {
  if (names.empty()) return;
  std::string list = names.front();
  for (std::size_t i = 1; i < std::min<std::size_t>(names.size(), 3); ++i) list += ", " + names[i];
  if (names.size() > 3) list += " and " + std::to_string(names.size() - 3) + " more";
  plan.warnings.push_back(list + ": " + what + " are copied as they are: " + why);
}

}  // namespace

void warn_of_other_linears(const Recipe& recipe, const ModelOutline& outline, Plan& plan) {
  const bool any = std::any_of(recipe.modifiers.begin(), recipe.modifiers.end(),
                               [](const RecipeModifier& modifier) { return !modifier.schemes.empty(); });
  if (!any) return;
  std::vector<std::string> transposed;
  std::vector<std::string> fused;
  const auto holds_experts = [](const std::string& name, const Shape& shape) {
    return shape.size() == 3 && name.find("expert") != std::string::npos;
  };
  for (const Module& module : outline.modules) {
    if (is_ignored(recipe, module.name, module.class_name)) continue;
    if (module.class_name == "Conv1D") transposed.push_back(module.name);
    if (module.weight != nullptr && holds_experts(module.name, module.weight->shape)) fused.push_back(module.name);
  }
  for (const TensorInfo* tensor : outline.others) {
    if (holds_experts(tensor->name, tensor->shape) && !is_ignored(recipe, tensor->name, "Other"))
      fused.push_back(tensor->name);
  }
  warn_of(transposed, "weights stored as [in, out] (Conv1D)", "no layout has a place for transposed linears", plan);
  warn_of(fused, "tensors of three dimensions (fused experts)",
          "layouts store one matrix per linear; save the model with one module per expert to quantize them", plan);
}

std::vector<Assignment> assign_targets(const Recipe& recipe, const ModelOutline& outline, Plan& plan) {
  std::vector<CompiledModifier> modifiers;
  for (const RecipeModifier& modifier : recipe.modifiers) modifiers.push_back(compile(modifier));
  std::vector<Assignment> result(outline.modules.size());
  for (std::size_t i = 0; i < outline.modules.size(); ++i) {
    assign_pruning(recipe, outline.modules[i], modifiers, result[i]);
    assign_module(recipe, outline.modules[i], modifiers, result[i], plan);
  }
  for (const CompiledModifier& modifier : modifiers) {
    warn_of_idle_patterns(modifier.targets, "target", outline, plan);
    warn_of_idle_patterns(modifier.ignore, "ignore entry", outline, plan);
  }
  return result;
}

}  // namespace quant::plan_detail
