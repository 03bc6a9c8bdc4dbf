#include "quant/open.h"
