#include "quant/layout.h"
