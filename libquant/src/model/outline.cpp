#include "quant/model.h"
