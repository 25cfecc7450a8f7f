// One measurement over a link. A command frame (u32 mode, u32 frames) says what follows: echo, where every frame comes back before the next is sent, or stream,
// where frames go one way and one of 8 bytes comes back. The baseline in C does the same.
export const modes = { echo: 0, stream: 1 };

export function serveCommands(link) {
  let mode = null;
  let left = 0;
  link.onFrame((frame) => {
    if (mode === null) {
      const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
      mode = view.getUint32(0, true);
      left = view.getUint32(4, true);
      return;
    }
    if (mode === modes.echo) link.send(frame);
    if (--left > 0) return;
    if (mode === modes.stream) link.send(new Uint8Array(8));
    mode = null;
  });
}

/** @returns seconds for `frames` frames of `bytes` bytes */
export async function measure(link, reception, mode, bytes, frames) {
  const command = new Uint8Array(8);
  const view = new DataView(command.buffer);
  view.setUint32(0, modes[mode], true);
  view.setUint32(4, frames, true);
  link.send(command);
  const frame = new Uint8Array(bytes).fill(7);
  const start = process.hrtime.bigint();
  if (mode === 'echo') {
    await new Promise((resolve) => {
      let left = frames;
      reception.receive = () => {
        if (--left === 0) resolve();
        else link.send(frame);
      };
      link.send(frame);
    });
  } else {
    const answered = new Promise((resolve) => {
      reception.receive = resolve;
    });
    for (let i = 0; i < frames; i++) if (!link.send(frame)) await link.drained();
    await answered;
  }
  return Number(process.hrtime.bigint() - start) * 1e-9;
}
