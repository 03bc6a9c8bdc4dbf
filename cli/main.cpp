#include "app.h"

int main(int argc, char** argv) { return quant::cli::run_program(argc, argv); }
