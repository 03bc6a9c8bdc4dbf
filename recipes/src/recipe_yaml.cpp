#include "quant/recipe_yaml.h"
