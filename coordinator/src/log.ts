import pino from 'pino';

export type Log = pino.Logger;

/** JSON lines, on stderr unless someone takes them; never a token, a prompt or a secret. */
export function createLog(level: string, take: ((line: string) => void) | null = null): Log {
  return pino(
    { level, base: { part: 'coordinator' }, timestamp: pino.stdTimeFunctions.isoTime },
    take === null ? pino.destination({ dest: 2, sync: false }) : { write: take },
  );
}
