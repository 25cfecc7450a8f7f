import { type Native, NativeError } from '@switchyard/native';
import { expect, test } from 'vitest';
import { watchDevice } from '../../src/process/device-loss.ts';

const failing = (error: Error) =>
  ({
    programRun: () => {
      throw error;
    },
    expertsRun: () => {
      throw error;
    },
  }) as unknown as Native;

test('a device that fails is told of once for each call, and the call fails all the same', () => {
  const lost: string[] = [];
  const dead = failing(new NativeError('io', 'CUDA, run: an illegal memory access was encountered'));
  watchDevice(dead, (error) => lost.push(error.message));
  expect(() => dead.programRun(null as never, null as never)).toThrow('illegal memory access');
  expect(() => dead.expertsRun(...([] as unknown as Parameters<Native['expertsRun']>))).toThrow('illegal memory access');
  expect(lost).toHaveLength(2);
});

test('what fails one call alone is no loss', () => {
  const lost: string[] = [];
  const refusing = failing(new NativeError('out_of_memory', 'no room'));
  watchDevice(refusing, (error) => lost.push(error.message));
  expect(() => refusing.programRun(null as never, null as never)).toThrow('no room');
  expect(lost).toEqual([]);
});
