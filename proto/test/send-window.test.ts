import { describe, expect, it } from 'vitest';
import { FrameInbox } from '../src/frame-inbox.ts';
import { SendWindow } from '../src/send-window.ts';

/** What of these has come to pass by the next turn. */
async function settled(...promises: Promise<unknown>[]): Promise<string[]> {
  const states = promises.map(() => 'waits');
  promises.forEach((promise, i) => {
    promise.then(
      () => (states[i] = 'done'),
      () => (states[i] = 'failed'),
    );
  });
  await new Promise((resolve) => setImmediate(resolve));
  return states;
}

describe('SendWindow', () => {
  it('has room below its bound, and calls who waits when half of it is free', async () => {
    const window = new SendWindow(100);
    expect(window.add(99)).toBe(true);
    expect(window.add(1)).toBe(false);
    const waiting = [window.drained(), window.drained()];
    window.remove(49);
    expect(window.pendingBytes).toBe(51);
    expect(await settled(...waiting)).toEqual(['waits', 'waits']);
    window.remove(1);
    expect(await settled(...waiting, window.drained())).toEqual(['done', 'done', 'done']);
  });

  it('calls everybody once nothing will be written any more, and those who come later', async () => {
    const window = new SendWindow(100);
    window.add(200);
    const waiting = window.drained();
    window.close();
    expect(await settled(waiting, window.drained())).toEqual(['done', 'done']);
    expect(window.pendingBytes).toBe(0);
  });

  it('keeps nothing of those who wait no longer', async () => {
    const window = new SendWindow(100);
    window.add(100);
    const reason = new Error('enough');
    await expect(window.drained(AbortSignal.abort(reason))).rejects.toBe(reason);
    const controller = new AbortController();
    const listeners = new Set<unknown>();
    const { signal } = controller;
    const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)];
    signal.addEventListener = (type: string, listener: (event: Event) => void) => {
      listeners.add(listener);
      add(type, listener, { once: true });
    };
    signal.removeEventListener = (type: string, listener: (event: Event) => void) => {
      listeners.delete(listener);
      remove(type, listener);
    };
    // One signal may outlive many waits.
    const waiting = window.drained(signal);
    window.remove(60);
    await waiting;
    expect(listeners.size).toBe(0);
    window.add(60);
    const given = window.drained(signal);
    controller.abort(reason);
    await expect(given).rejects.toBe(reason);
  });
});

describe('FrameInbox', () => {
  const frame = (length: number, value: number) => new Uint8Array(length).fill(value);

  it('takes frames up to its bound before anybody receives, and resumes the transport then', () => {
    const inbox = new FrameInbox(100);
    let resumed = 0;
    const resume = () => void resumed++;
    expect([inbox.deliver(frame(60, 1), resume), inbox.deliver(frame(39, 2), resume), inbox.deliver(frame(1, 3), resume)]).toEqual([
      true,
      true,
      false,
    ]);
    const got: number[] = [];
    const resumedAt: number[] = [];
    inbox.onFrame(([first]) => {
      got.push(first);
      resumedAt.push(resumed);
    });
    expect([got, resumed, resumedAt]).toEqual([[1, 2, 3], 1, [0, 0, 0]]);
    expect(inbox.deliver(frame(1000, 4), resume)).toBe(true);
    expect([got, resumed]).toEqual([[1, 2, 3, 4], 1]);
  });

  it('has one receiver', () => {
    const inbox = new FrameInbox(100);
    inbox.onFrame(() => {});
    expect(() => inbox.onFrame(() => {})).toThrow(/once/);
  });

  it('hands over nothing once it is stopped, before or while frames are received', () => {
    const stopped = new FrameInbox(100);
    stopped.deliver(frame(1, 1), () => {});
    stopped.stop();
    stopped.onFrame(() => expect.unreachable());
    const inbox = new FrameInbox(100);
    for (const value of [1, 2]) inbox.deliver(frame(1, value), () => {});
    const got: number[] = [];
    inbox.onFrame(([first]) => {
      got.push(first);
      inbox.stop();
    });
    expect(got).toEqual([1]);
  });
});
