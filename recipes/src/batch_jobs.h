// From the parts of a job file to its jobs.
#pragma once

#include <string>
#include <vector>

#include "batch_items.h"

namespace quant::recipe_yaml {

/// What is left out of a matrix; an empty text stands for all.
struct Exclusion {
  Placed model;
  Placed recipe;
};

struct BatchParts {
  Placed output;  ///< template of all jobs; resolved against the file's folder
  BatchItem defaults;
  std::vector<BatchItem> models;
  std::vector<BatchItem> recipes;
  std::vector<Exclusion> exclude;
  std::vector<BatchItem> jobs;
};

/// All jobs. Adds mistakes for names that are no names of files, for templates, for exclusions that match nothing, and
/// for names and outputs that collide.
std::vector<BatchJob> make_jobs(const BatchParts& parts, const BatchItemReader& reader, Mistakes& mistakes);

/// The folder of a template, up to its first placeholder.
std::string root_of(const std::string& output_template);

}  // namespace quant::recipe_yaml
