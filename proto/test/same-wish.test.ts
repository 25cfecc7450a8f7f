import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { oncePerWish } from '../src/index.ts';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['performance'] });
});
afterEach(() => {
  vi.useRealTimers();
});

it('a wish that arrives twice is one, and one a second later is another', () => {
  const heard: string[] = [];
  const ask = oncePerWish(
    (signal: string) => heard.push(signal),
    () => heard.push('again'),
  );
  ask('SIGINT');
  ask('SIGINT');
  vi.advanceTimersByTime(999);
  ask('SIGTERM');
  expect(heard).toEqual(['SIGINT']);
  vi.advanceTimersByTime(1);
  ask('SIGINT');
  ask('SIGINT');
  expect(heard).toEqual(['SIGINT', 'again', 'again']);
});
