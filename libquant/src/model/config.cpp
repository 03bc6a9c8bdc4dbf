#include "quant/checkpoint.h"
