// One measurement over a link. A command frame (u32 mode, u32 frames) says what follows: echo, where every frame comes back before the next is sent, or stream,
// where frames go one way. At the end comes one frame of 8 bytes, the processor seconds that the serving side used (f64). The baseline in C does the same.
import { giveBackFrame } from '../../proto/dist/index.js';

export const modes = { echo: 0, stream: 1 };

export function serveCommands(link) {
  let mode = null;
  let left = 0;
  let before;
  link.onFrame((frame) => {
    if (mode === null) {
      const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
      mode = view.getUint32(0, true);
      left = view.getUint32(4, true);
      before = process.cpuUsage();
      return;
    }
    // Who needs a frame last gives its memory back, as workers do: the link once it has sent it, the receiver once it has read it.
    if (mode === modes.echo) link.send(frame);
    else giveBackFrame(frame);
    if (--left > 0) return;
    mode = null;
    const used = process.cpuUsage(before);
    const answer = new Uint8Array(8);
    new DataView(answer.buffer).setFloat64(0, (used.user + used.system) * 1e-6, true);
    link.send(answer);
  });
}

/** @returns seconds on the clock, and of both processes' processors, for `frames` frames of `bytes` bytes */
export async function measure(link, reception, mode, bytes, frames, sameProcess = false) {
  const command = new Uint8Array(8);
  const view = new DataView(command.buffer);
  view.setUint32(0, modes[mode], true);
  view.setUint32(4, frames, true);
  link.send(command);
  const frame = new Uint8Array(bytes).fill(7);
  const before = process.cpuUsage();
  const start = process.hrtime.bigint();
  let left = mode === 'echo' ? frames : 0;
  const answered = new Promise((resolve) => {
    reception.receive = (received) => {
      if (left-- === 0) {
        resolve(received);
        return;
      }
      giveBackFrame(received);
      if (left > 0) link.send(frame);
    };
  });
  if (mode === 'echo') link.send(frame);
  else for (let i = 0; i < frames; i++) if (!link.send(frame)) await link.drained();
  const answer = await answered;
  const seconds = Number(process.hrtime.bigint() - start) * 1e-9;
  const used = process.cpuUsage(before);
  const far = new DataView(answer.buffer, answer.byteOffset, 8).getFloat64(0, true);
  return { seconds, processorSeconds: (used.user + used.system) * 1e-6 + (sameProcess ? 0 : far) };
}
