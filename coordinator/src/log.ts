import pino from 'pino';

export type Log = pino.Logger;

/** JSON lines on stderr; never a token, a prompt or a secret. */
export function createLog(level: string): Log {
  return pino(
    { level, base: { part: 'coordinator' }, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ dest: 2, sync: false }),
  );
}
