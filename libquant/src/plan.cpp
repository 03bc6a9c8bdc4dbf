#include "quant/plan.h"
