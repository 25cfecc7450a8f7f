import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

/** Debian puts it where only root's PATH looks. */
const program = ['nats-server', '/usr/sbin/nats-server'].find((name) => spawnSync(name, ['--version']).status === 0) ?? null;

/** Null where tests can start a server, else why not. */
export const noNatsServer = program === null ? 'no nats-server is installed' : null;

export interface NatsServer {
  port: number;
  child: ChildProcess;
  stop(): Promise<void>;
}

/** A server of this test's own. @param config lines of its configuration file */
export async function startNatsServer(config = '', port = -1): Promise<NatsServer> {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'sy-nats-'));
  const file = path.join(folder, 'server.conf');
  writeFileSync(file, `listen: "127.0.0.1:${port}"\n${config}\n`);
  const child = spawn(program!, ['-c', file], { stdio: ['ignore', 'ignore', 'pipe'] });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const bound = await new Promise<number>((resolve, reject) => {
    let said = '';
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      said += text;
      const found = /Listening for client connections on [^\s]*:(\d+)/.exec(said);
      if (found !== null && said.includes('Server is ready')) resolve(Number(found[1]));
    });
    child.once('error', reject);
    void exited.then(() => reject(new Error(`nats-server ended: ${said}`)));
  });
  return {
    port: bound,
    child,
    stop: async () => {
      child.kill('SIGKILL');
      await exited;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
