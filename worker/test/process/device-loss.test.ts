import { type Native, NativeError } from '@switchyard/native';
import { expect, test } from 'vitest';
import { watchDevice } from '../../src/process/device-loss.ts';

/** All that touches a device, when steps run and when experts are loaded. */
const touching = ['programRun', 'expertsRun', 'expertsCreate', 'expertsSet', 'expertsProbe', 'expertsReserve'] as const;

const failing = (error: Error) =>
  Object.fromEntries(
    touching.map((name) => [
      name,
      () => {
        throw error;
      },
    ]),
  ) as unknown as Native;

test('a device that fails is told of once for each call, and the call fails all the same', () => {
  const lost: string[] = [];
  const dead = failing(new NativeError('io', 'CUDA, run: an illegal memory access was encountered'));
  watchDevice(dead, (error) => lost.push(error.message));
  for (const name of touching) expect(dead[name] as () => void).toThrow('illegal memory access');
  expect(lost).toHaveLength(touching.length);
});

test('what fails one call alone is no loss', () => {
  const lost: string[] = [];
  const refusing = failing(new NativeError('out_of_memory', 'no room'));
  watchDevice(refusing, (error) => lost.push(error.message));
  expect(() => refusing.programRun(null as never, null as never)).toThrow('no room');
  expect(lost).toEqual([]);
});
