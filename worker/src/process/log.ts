/** One line to stderr per event of a process's life: never per token, never with text of a prompt. */
export type Log = (level: 'info' | 'warn' | 'error', message: string) => void;

export function stderrLog(name: string): Log {
  return (level, message) => {
    process.stderr.write(`${new Date().toISOString()} ${level} worker ${name}: ${message}\n`);
  };
}
