#include "quant/report.h"
