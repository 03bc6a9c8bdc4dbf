#include "quant/names.h"
