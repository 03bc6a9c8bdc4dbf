// Defines QUANT_TEST_SANITIZED where a sanitizer keeps memory and address space of its own.
#pragma once

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define QUANT_TEST_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define QUANT_TEST_SANITIZED
#endif
#endif
