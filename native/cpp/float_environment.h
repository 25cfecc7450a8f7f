/*
 * The floating-point environment of every kernel: round to nearest even, denormals flushed to zero in inputs and outputs.
 * JavaScript must never see it, so it is entered and left with a scope.
 */
#ifndef SWITCHYARD_FLOAT_ENVIRONMENT_H
#define SWITCHYARD_FLOAT_ENVIRONMENT_H

#include <cstdint>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace sy {

class FlushDenormals {
public:
  FlushDenormals() : before_(read()) { write(flushing(before_)); }
  ~FlushDenormals() { write(before_); }
  FlushDenormals(const FlushDenormals &) = delete;
  FlushDenormals &operator=(const FlushDenormals &) = delete;

private:
#if defined(__x86_64__)
  using Control = uint32_t;
  static Control read() { return _mm_getcsr(); }
  static void write(Control control) { _mm_setcsr(control); }
  /* FTZ is bit 15, DAZ bit 6, all exceptions masked (bits 7..12), rounding (bits 13..14) to nearest, status flags clear. */
  static Control flushing(Control) { return 0x8000u | 0x0040u | 0x1f80u; }
#elif defined(__aarch64__)
  using Control = uint64_t;
  static Control read() {
    Control control;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    return control;
  }
  static void write(Control control) { __asm__ volatile("msr fpcr, %0" : : "r"(control)); }
  static Control flushing(Control before) { return (before & ~(Control{3} << 22)) | (Control{1} << 24); } // RMode nearest, FZ
#else
#error "how to flush denormals on this processor is not written"
#endif
  Control before_;
};

} // namespace sy
#endif
