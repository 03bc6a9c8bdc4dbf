#include "app.h"
#include "waiting_threads.h"

int main(int argc, char** argv) {
  quant::cli::let_waiting_threads_sleep(argv);
  return quant::cli::run_program(argc, argv);
}
