import { type Native, NativeError } from '@switchyard/native';

/**
 * From now on these kernels, whoever holds them, say when their device is lost. A GPU that has failed once (an error of its memory, a reset) refuses every later call of this process: a
 * worker that went on would be ready and fail all it is asked. Another process may find the GPU well again.
 */
export function watchDevice(native: Native, onLost: (error: NativeError) => void): void {
  const watched =
    <Arguments extends unknown[]>(call: (...given: Arguments) => void) =>
    (...given: Arguments): void => {
      try {
        call(...given);
      } catch (error) {
        if (error instanceof NativeError && error.status === 'io') onLost(error);
        throw error;
      }
    };
  native.programRun = watched(native.programRun);
  native.expertsRun = watched(native.expertsRun);
}
