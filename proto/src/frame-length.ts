import { SwitchyardError } from './errors.ts';

/** No frame is empty: control streams say goodbye with an empty message. @throws SwitchyardError `bad_frame` */
export function checkFrameLength(bytes: number, bytesMax: number): void {
  if (bytes < 1 || bytes > bytesMax) throw badFrameLength(bytes, bytesMax);
}

export function badFrameLength(bytes: number, bytesMax: number): SwitchyardError {
  return new SwitchyardError('bad_frame', `a frame of ${bytes} bytes is outside 1..${bytesMax}`, { param: 'frame.length' });
}
