// How each system is started for a comparison: on the same two cores, from the same weights, over HTTP.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { atEnd } from '../leftovers.mjs';
import { draftFlags, systemOf } from './drafts.mjs';

const root = path.resolve(import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname), '../..');

/** Sequences that a server must be able to run at once, and the context of each. */
const sequences = 32;
const context = 1024;

export const systems = {
  switchyard: ({ model, port, threads, format, drafts, extra }) => ({
    command: process.execPath,
    args: [
      ...[path.join(root, 'cli/dist/main.js'), 'up', '--model', model, '--port', port, '--nodes', 1, '--workers-per-node', 1],
      ...['--threads', threads],
      ...(format === 'int8' ? ['--expert-dtype', 'int8', '--dense-dtype', 'int8'] : []),
      ...drafts,
      ...extra,
    ],
    env: {},
    ready: '/health/ready',
  }),
  'llama.cpp': ({ gguf, port, threads, llama, drafts }) => ({
    command: path.join(llama, 'llama-server'),
    args: [
      ...['-m', gguf, '--host', '127.0.0.1', '--port', port, '-t', threads, '-tb', threads],
      ...['-np', sequences, '-c', sequences * context, '--no-webui', '--cache-ram', 0, '--threads-http', sequences + 16],
      ...drafts,
    ],
    env: {},
    ready: '/health',
  }),
  vllm: ({ model, port, threads, vllm, drafts }) => ({
    command: path.join(vllm, 'bin/vllm'),
    args: [
      ...['serve', model, '--served-model-name', 'model', '--host', '127.0.0.1', '--port', port, '--dtype', 'bfloat16'],
      ...['--max-model-len', context, '--max-num-seqs', sequences],
      ...drafts,
    ],
    env: {
      VLLM_CPU_KVCACHE_SPACE: '1',
      VLLM_CPU_OMP_THREADS_BIND: `0-${threads - 1}`,
      VLLM_CPU_NUM_OF_RESERVED_CPU: '0',
      VLLM_NO_USAGE_STATS: '1',
      HF_HUB_OFFLINE: '1',
    },
    ready: '/v1/models',
  }),
};

/** Whoever listens there already would be measured under another's name: what an earlier run has left behind, say. */
async function refuseTakenPort(port) {
  const probe = net.createServer().listen(port, '127.0.0.1');
  await once(probe, 'listening').catch(({ message }) => {
    throw new Error(`port ${port} cannot be measured on: ${message}`);
  });
  probe.close();
  await once(probe, 'close');
}

/**
 * Starts a system, by a name that also says whether it guesses (`drafts.mjs`), and resolves when it serves; `stop()` ends it and everything that it started, as does the
 * end of this process.
 */
export async function startServer(name, options, logFile) {
  const { command, args, env, ready } = systems[systemOf(name)]({ ...options, drafts: draftFlags(name) });
  await refuseTakenPort(Number(options.port));
  // Straight into the file: the measuring process is blocked while its client runs, and a server whose pipe is full stops.
  const log = openSync(logFile, 'w');
  const child = spawn(command, args.map(String), { env: { ...process.env, ...env }, stdio: ['ignore', log, log], detached: true });
  closeSync(log);
  let ended = null;
  child.on('exit', (code, signal) => {
    ended = signal ?? code;
  });
  const endNow = () => {
    try {
      process.kill(-child.pid, 'SIGKILL');
    } catch {
      // The whole group is gone already.
    }
  };
  const forget = atEnd(endNow);
  const url = `http://127.0.0.1:${options.port}`;
  const stop = async () => {
    if (ended === null) process.kill(-child.pid, 'SIGTERM');
    for (let i = 0; i < 100 && ended === null; i++) await new Promise((r) => setTimeout(r, 100));
    endNow();
    forget();
  };
  const deadline = Date.now() + 300_000;
  while (Date.now() < deadline) {
    if (ended !== null) throw new Error(`${name} ended (${ended}) before it served: see ${logFile}`);
    const answer = await fetch(url + ready).catch(() => null);
    if (answer?.ok) return { url, stop };
    await new Promise((r) => setTimeout(r, 250));
  }
  await stop();
  throw new Error(`${name} did not serve within 300 s: see ${logFile}`);
}
