#include "quant/metrics.h"
