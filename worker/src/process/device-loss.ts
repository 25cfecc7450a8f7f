import { type Native, NativeError } from '@switchyard/native';

/**
 * From now on these kernels, whoever holds them, say when their device is lost. A GPU that has failed once (an error of its memory, a reset) refuses every later call of this process: a
 * worker that went on would be ready and fail all it is asked. Another process may find the GPU well again.
 */
export function watchDevice(native: Native, onLost: (error: NativeError) => void): void {
  const watched =
    <Arguments extends unknown[], Result>(call: (...given: Arguments) => Result) =>
    (...given: Arguments): Result => {
      try {
        return call(...given);
      } catch (error) {
        if (error instanceof NativeError && error.status === 'io') onLost(error);
        throw error;
      }
    };
  native.programRun = watched(native.programRun);
  native.expertsRun = watched(native.expertsRun);
  // Loading takes and writes all of its memory: of these, too, none fails with `io` for another reason.
  native.expertsCreate = watched(native.expertsCreate);
  native.expertsSet = watched(native.expertsSet);
  native.expertsProbe = watched(native.expertsProbe);
  native.expertsReserve = watched(native.expertsReserve);
}
