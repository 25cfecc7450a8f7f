import { SingleBar } from 'cli-progress';

export interface Progress {
  /** `done` of `total`, in whatever unit; `what` is shown beside it. */
  update(done: number, total: number, what: string): void;
  finish(): void;
}

/**
 * Progress of long work on stderr: a bar on a terminal, otherwise a plain line whenever another tenth is done, so that logs stay short and stdout stays
 * free for results.
 */
export function startProgress(label: string, stream: NodeJS.WriteStream = process.stderr): Progress {
  return stream.isTTY ? barProgress(label, stream) : lineProgress(label, stream);
}

function barProgress(label: string, stream: NodeJS.WriteStream): Progress {
  const bar = new SingleBar({ stream, format: `${label} [{bar}] {percentage}% {what}`, hideCursor: true, clearOnComplete: true, fps: 8 });
  let started = false;
  return {
    update(done, total, what) {
      if (!started) bar.start(total, done, { what });
      started = true;
      bar.setTotal(total);
      bar.update(done, { what });
    },
    finish() {
      if (started) bar.stop();
    },
  };
}

function lineProgress(label: string, stream: NodeJS.WriteStream): Progress {
  let tenths = -1;
  return {
    update(done, total, what) {
      const now = total > 0 ? Math.floor((10 * done) / total) : 0;
      if (now === tenths) return;
      tenths = now;
      stream.write(`${label}: ${now * 10}% ${what}\n`);
    },
    finish() {},
  };
}
