#include "quant/pipeline.h"
