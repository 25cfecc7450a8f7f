import pc from 'picocolors';

export type Colours = ReturnType<typeof pc.createColors>;

/**
 * Colours for what is written to this stream: of the two standard ones one may be a terminal and the other a file. NO_COLOR, FORCE_COLOR and TERM are heard as elsewhere
 * (https://no-color.org).
 */
export function coloursOf(stream: { isTTY?: boolean }, env: NodeJS.ProcessEnv = process.env): Colours {
  return pc.createColors(!env.NO_COLOR && Boolean(env.FORCE_COLOR || (stream.isTTY && env.TERM !== 'dumb')));
}
