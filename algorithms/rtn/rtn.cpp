#include "quant/rtn.h"
