#include "batch_jobs.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

namespace quant::recipe_yaml {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kLongestName = 180;  // bytes: endings of files are added
constexpr std::size_t kMostJobs = 100'000;

using Values = std::map<std::string, std::string>;

std::string last_part(const std::string& path) {
  const fs::path given(path);
  return (given.has_filename() ? given : given.parent_path()).filename().string();
}

std::string stem_of(const std::string& recipe) {
  const fs::path given(recipe);
  const bool file = given.extension() == ".yaml" || given.extension() == ".yml" || given.extension() == ".json";
  return file ? given.stem().string() : given.filename().string();
}

class JobMaker {
 public:
  JobMaker(const BatchParts& parts, const BatchItemReader& reader, Mistakes& mistakes)
      : parts_(parts), reader_(reader), mistakes_(mistakes) {}

  std::vector<BatchJob> make() {
    if (parts_.models.size() * parts_.recipes.size() + parts_.jobs.size() > kMostJobs) {
      mistakes_.add({1, 1}, fmt::format("the job file has more than {} jobs", kMostJobs));
      return {};
    }
    check_unique(parts_.models, true);
    check_unique(parts_.recipes, false);
    check_excluded();
    for (const BatchItem& model : parts_.models) {
      for (const BatchItem& recipe : parts_.recipes) {
        if (!model.model || !recipe.recipe || excluded(model, recipe)) continue;
        add(join(model, recipe), std::nullopt);
      }
    }
    for (const BatchItem& job : parts_.jobs) {
      if (job.model && job.recipe) add(job, job.name);
    }
    check_places();
    return std::move(jobs_);
  }

 private:
  static std::string model_name(const BatchItem& item) {
    return item.name ? item.name->text : last_part(item.model->text);
  }
  static std::string recipe_name(const BatchItem& item) {
    return item.name ? item.name->text : stem_of(item.recipe->text);
  }

  // Names become parts of file names.
  bool check_name(const std::string& name, Place where, std::string_view what) {
    const bool control = std::any_of(name.begin(), name.end(), [](char c) {
      return static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) == 0x7F;
    });
    std::string why;
    if (name.empty()) why = "is empty";
    if (name.find('/') != std::string::npos) why = "has a slash";
    if (name.starts_with('.')) why = "begins with a dot";
    if (control) why = "has control characters";
    if (name.size() > kLongestName) why = fmt::format("has more than {} bytes", kLongestName);
    if (why.empty()) return true;
    mistakes_.add(where, fmt::format("the name {} of a {} {}, but it becomes part of file names; give it another with "
                                     "'name'",
                                     in_quotes(name), what, why));
    return false;
  }

  void check_unique(const std::vector<BatchItem>& items, bool models) {
    std::map<std::string, int> lines;
    for (const BatchItem& item : items) {
      if (models ? !item.model : !item.recipe) continue;
      const std::string name = models ? model_name(item) : recipe_name(item);
      const std::string_view what = models ? "model" : "recipe";
      if (!check_name(name, item.name ? item.name->where : item.where, what)) continue;
      const auto [at, is_new] = lines.try_emplace(name, item.where.line);
      if (is_new) continue;
      mistakes_.add(item.where, fmt::format("the {} of line {} has the name {} already; give one of them another with "
                                            "'name'",
                                            what, at->second, in_quotes(name)));
    }
  }

  static bool matches(const Exclusion& exclusion, const BatchItem& model, const BatchItem& recipe) {
    return (exclusion.model.text.empty() || exclusion.model.text == model_name(model)) &&
           (exclusion.recipe.text.empty() || exclusion.recipe.text == recipe_name(recipe));
  }

  bool excluded(const BatchItem& model, const BatchItem& recipe) const {
    return std::any_of(parts_.exclude.begin(), parts_.exclude.end(),
                       [&](const Exclusion& exclusion) { return matches(exclusion, model, recipe); });
  }

  void check_excluded() {
    for (const Exclusion& exclusion : parts_.exclude) {
      bool any = false;
      std::vector<std::string> names;
      for (const BatchItem& model : parts_.models) {
        if (!model.model) continue;
        names.push_back(model_name(model));
        for (const BatchItem& recipe : parts_.recipes)
          any = any || (recipe.recipe && matches(exclusion, model, recipe));
      }
      if (any) continue;
      const bool bad_model =
          !exclusion.model.text.empty() && std::find(names.begin(), names.end(), exclusion.model.text) == names.end();
      if (!bad_model) {
        names.clear();
        for (const BatchItem& recipe : parts_.recipes) {
          if (recipe.recipe) names.push_back(recipe_name(recipe));
        }
      }
      const Placed& wrong = bad_model ? exclusion.model : exclusion.recipe;
      mistakes_.add(wrong.where,
                    fmt::format("exclude: no {} is named {}{}", bad_model ? "model" : "recipe", in_quotes(wrong.text),
                                suggestion(wrong.text, names, bad_model ? "the models" : "the recipes")));
    }
  }

  // What both say must not be left to chance.
  BatchItem join(const BatchItem& model, const BatchItem& recipe) {
    BatchItem item = model;
    item.recipe = recipe.recipe;
    names_ = {model_name(model), recipe_name(recipe)};
    const auto merge = [&](std::map<std::string, Placed>& into, const std::map<std::string, Placed>& from) {
      for (const auto& [key, value] : from) {
        const auto [at, is_new] = into.try_emplace(key, value);
        if (is_new || at->second.text == value.text) continue;
        mistakes_.add(value.where, fmt::format("{} is given here and for the model of line {}; leave out one of them",
                                               key, model.where.line));
      }
    };
    merge(item.options, recipe.options);
    merge(item.set, recipe.set);
    if (recipe.convert && model.convert) {
      mistakes_.add(
          recipe.convert->where,
          fmt::format("convert is given here and for the model of line {}; leave out one of them", model.where.line));
    }
    if (recipe.convert) item.convert = recipe.convert;
    item.name.reset();
    return item;
  }

  std::string fill(const Placed& text, const Values& values) {
    std::string result;
    for (std::size_t at = 0; at < text.text.size(); ++at) {
      if (text.text[at] != '{') {
        result += text.text[at];
        continue;
      }
      const std::size_t end = text.text.find('}', at);
      const std::string key = end == std::string::npos ? "" : text.text.substr(at + 1, end - at - 1);
      const auto found = values.find(key);
      if (found == values.end()) {
        std::vector<std::string> known;
        for (const auto& [name, value] : values) known.push_back("{" + name + "}");
        mistakes_.add(text.where, fmt::format("{} is no placeholder; there are {}",
                                              in_quotes(end == std::string::npos ? text.text.substr(at)
                                                                                 : text.text.substr(at, end - at + 1)),
                                              joined(known)));
        return result;
      }
      result += found->second;
      at = end;
    }
    return result;
  }

  void add(const BatchItem& item, const std::optional<Placed>& name) {
    BatchJob job;
    job.where = mistakes_.at(item.where);
    job.model_name = names_ ? names_->first : last_part(item.model->text);
    job.recipe_name = names_ ? names_->second : stem_of(item.recipe->text);
    if (!names_) {
      check_name(job.model_name, item.model->where, "model");
      check_name(job.recipe_name, item.recipe->where, "recipe");
    }
    names_.reset();
    job.name = name ? name->text : job.model_name + "-" + job.recipe_name;
    if (!check_name(job.name, name ? name->where : item.where, "job")) return;
    job.model = reader_.resolve(item.model->text);
    job.recipe = recipe_path(item.recipe->text);
    Values values = {{"model", job.model_name}, {"recipe", job.recipe_name}, {"name", job.name}};
    const Placed& output = item.output ? *item.output : parts_.output;
    job.output = reader_.resolve(fill(output, values));
    values_of(parts_.defaults.options, item.options, job.options);
    values_of(parts_.defaults.set, item.set, job.set);
    const auto& convert = item.convert ? item.convert : parts_.defaults.convert;
    if (convert) add_conversion(*convert, values, job);
    jobs_.push_back(std::move(job));
    places_.push_back(item.where);
  }

  static void values_of(const std::map<std::string, Placed>& defaults, const std::map<std::string, Placed>& own,
                        std::map<std::string, std::string>& into) {
    for (const auto& [key, value] : defaults) into[key] = value.text;
    for (const auto& [key, value] : own) into[key] = value.text;
    // Text and statistics exclude each other: a job's own choice replaces that of the defaults.
    if (own.contains("statistics") && !own.contains("calibration")) into.erase("calibration");
    if (own.contains("calibration") && !own.contains("statistics")) into.erase("statistics");
  }

  void add_conversion(const BatchItem::Conversion& convert, Values values, BatchJob& job) {
    BatchConversion made;
    made.to = convert.to.text;
    made.options = convert.options;
    values["to"] = made.to;
    values["output"] = job.output;
    const Placed usual{made.to == "gguf" ? "{output}.gguf" : "{output}-{to}", convert.where};
    made.output = reader_.resolve(fill(convert.output ? *convert.output : usual, values));
    job.convert = std::move(made);
  }

  // A file if it looks like one, else the name of a ready recipe.
  std::string recipe_path(const std::string& text) const {
    const fs::path given(text);
    const bool file = text.find('/') != std::string::npos || given.extension() == ".yaml" ||
                      given.extension() == ".yml" || given.extension() == ".json";
    return file ? reader_.resolve(text) : text;
  }

  void check_places() {
    std::map<std::string, std::size_t> names;
    for (std::size_t i = 0; i < jobs_.size(); ++i) {
      const auto [at, is_new] = names.try_emplace(jobs_[i].name, i);
      if (is_new) continue;
      mistakes_.add(places_[i], fmt::format("the job of line {} has the name {} already; give one of them another with "
                                            "'name'",
                                            places_[at->second].line, in_quotes(jobs_[i].name)));
    }
    for (std::size_t i = 0; i < jobs_.size(); ++i) {
      claim(jobs_[i].output, i);
      if (jobs_[i].convert) claim(jobs_[i].convert->output, i);
    }
    for (const auto& [path, owner] : owners_) check_place(path, owner);
  }

  void claim(const std::string& path, std::size_t job) {
    const auto [at, is_new] = owners_.try_emplace(key_of(path), job);
    if (is_new) return;
    // As a rule one template is to blame for many.
    mistakes_.add(places_[job], fmt::format("the output {} of job {} is that of job {} (line {}) as well; outputs need "
                                            "{{model}} and {{recipe}}, or {{name}}",
                                            in_quotes(path), in_quotes(jobs_[job].name),
                                            in_quotes(jobs_[at->second].name), places_[at->second].line));
  }

  static std::string key_of(const std::string& path) {
    std::error_code ignored;
    std::string key = fs::absolute(path, ignored).lexically_normal().string();
    while (key.size() > 1 && key.back() == '/') key.pop_back();
    return key;
  }

  // Within another output, or under a name that making another uses; over a model, or where the batch keeps its state.
  void check_place(const std::string& path, std::size_t job) {
    const auto refuse = [&](const std::string& why) {
      mistakes_.add(places_[job],
                    fmt::format("the output {} of job {} {}", in_quotes(path), in_quotes(jobs_[job].name), why));
    };
    for (fs::path above = fs::path(path).parent_path(); above.has_relative_path(); above = above.parent_path()) {
      const auto found = owners_.find(above.string());
      if (found != owners_.end()) return refuse("lies within that of job " + in_quotes(jobs_[found->second].name));
    }
    const std::string partial = ".partial";
    if (path.ends_with(partial) && owners_.contains(path.substr(0, path.size() - partial.size()))) {
      return refuse("is where another job works before it is done");
    }
    const std::string root = key_of(reader_.resolve(root_of(parts_.output.text)));
    if (path == root || (root + "/").starts_with(path + "/")) return refuse("is the folder of all outputs");
    for (const std::string& own : {root + "/.quant-batch", root + "/batch.json", root + "/batch.html"}) {
      if (path == own || path.starts_with(own + "/")) return refuse("is where the batch keeps its state");
    }
    for (const BatchJob& other : jobs_) {
      const std::string model = key_of(other.model);
      if (path == model || path.starts_with(model + "/")) return refuse("lies in the model " + in_quotes(other.model));
    }
  }

  const BatchParts& parts_;
  const BatchItemReader& reader_;
  Mistakes& mistakes_;
  std::vector<BatchJob> jobs_;
  std::vector<Place> places_;
  std::optional<std::pair<std::string, std::string>> names_;  // of the matrix' next job
  std::map<std::string, std::size_t> owners_;
};

}  // namespace

std::string root_of(const std::string& output_template) {
  const std::string fixed = output_template.substr(0, output_template.find('{'));
  const std::size_t slash = fixed.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : fixed.substr(0, slash);
}

std::vector<BatchJob> make_jobs(const BatchParts& parts, const BatchItemReader& reader, Mistakes& mistakes) {
  return JobMaker(parts, reader, mistakes).make();
}

}  // namespace quant::recipe_yaml
