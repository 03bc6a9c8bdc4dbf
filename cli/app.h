// The program: finds the command, runs it, turns whatever goes wrong into a sentence and an exit code.
#pragma once

namespace quant::cli {

int run_program(int argc, char** argv);

}  // namespace quant::cli
