// What happens to a cluster in the midst of its work, one at a time. Each says what may fail of it.
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { processLives } from '../../cli/dist/cluster/run-folder.js';

/** Codes that say "again, please"; a request whose home is gone, or whose experts are, may end with one. */
const afterLoss = ['worker_lost', 'expert_unavailable', 'not_ready', 'queue_full', 'link_closed'];

/** Longer than any grace. */
const endSeconds = 60;

async function signalOne(server, draws, signal, but = '') {
  const { workers } = await server.status();
  const { name, pid } = draws.pick(workers.filter((worker) => worker.state === 'ready' && worker.name !== but));
  process.kill(pid, signal);
  return { name, pid };
}

export const disturbances = {
  /** Nothing, and nothing may fail. */
  calm: { mayFail: [], async happen() {} },
  /** Killed without warning. Its experts are elsewhere too: only what it was home of may fail. */
  kill: {
    mayFail: afterLoss,
    happen: (server, draws) => signalOne(server, draws, 'SIGKILL'),
  },
  /** Two at once: experts may be without a worker for a while. */
  'kill two': {
    mayFail: afterLoss,
    async happen(server, draws) {
      const { name } = await signalOne(server, draws, 'SIGKILL');
      await signalOne(server, draws, 'SIGKILL', name);
    },
  },
  /** Asked to stop: it ends what it has begun. */
  terminate: {
    mayFail: [...afterLoss, 'shutting_down'],
    async happen(server, draws) {
      const { name, pid } = await signalOne(server, draws, 'SIGTERM');
      // What comes of it belongs to this round: one that drains is ready until it is gone.
      for (const untilMs = performance.now() + 1000 * endSeconds; processLives(pid); await sleep(50))
        if (performance.now() > untilMs) throw new Error(`${name} was told to end ${endSeconds} s ago and has not`);
    },
  },
  /** Stands still for less than anybody's patience: nothing fails. */
  freeze: {
    mayFail: [],
    async happen(server, draws) {
      const { pid } = await signalOne(server, draws, 'SIGSTOP');
      await sleep(200 + 1300 * draws.next());
      process.kill(pid, 'SIGCONT');
    },
  },
  /** Strangers at the door: bytes that are no HTTP, heads without an end, bodies that break off. */
  noise: {
    mayFail: [],
    async happen({ url }, draws) {
      const { hostname, port } = new URL(url);
      const head = 'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n';
      for (let i = 0; i < 20; i++) {
        const text = draws.pick([
          '\x16\x03\x01\x02\x00\x01',
          'GET / HTTP/1.1\r\nX: ',
          `${head}{"prompt": "`,
          `${head.replace('500', '12')}{"prompt": 1}`,
        ]);
        const socket = net.connect(Number(port), hostname, () => socket.write(text));
        socket.on('error', () => {});
        await sleep(10);
        socket.destroy();
      }
    },
  },
};
