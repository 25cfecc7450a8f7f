import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { contiguousPlan, limits, parseCpuList } from '@switchyard/proto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { startChild } from '../src/cluster/child-process.ts';
import { clusterShape } from '../src/cluster/cluster-shape.ts';
import { shareCpus } from '../src/cluster/cpu-share.ts';
import { startOwnServer } from '../src/cluster/own-server.ts';
import { crashLoopDeaths, decideRestart } from '../src/cluster/restart-policy.ts';
import { controlSocket, createRunFolder, socketsFit } from '../src/cluster/run-folder.ts';
import { connectToSession, findSession, saveSession } from '../src/cluster/session.ts';
import { explainDeath } from '../src/cluster/worker-death.ts';
import { type LocalTransport, workerArgs } from '../src/cluster/worker-flags.ts';
import type { WorkerDeath } from '../src/cluster/worker-fleet.ts';
import { WorkerFleet } from '../src/cluster/worker-fleet.ts';
import { coloursOf } from '../src/terminal/colours.ts';

function processLives(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

describe('cpu share', () => {
  it('gives one worker everything', () => {
    expect(shareCpus([0, 1, 4, 5], 1, null)).toEqual([{ threads: 4, cpus: [0, 1, 4, 5] }]);
  });

  it('gives each of too many workers one thread that may run anywhere', () => {
    expect(shareCpus([0, 1], 4, null)).toEqual(Array(4).fill({ threads: 1, cpus: null }));
  });

  it('takes the number of threads asked for', () => {
    expect(shareCpus([0, 1, 2, 3], 2, 1)).toEqual([
      { threads: 1, cpus: [0] },
      { threads: 1, cpus: [2] },
    ]);
    expect(shareCpus([0, 1], 1, 3)).toEqual([{ threads: 3, cpus: null }]);
  });

  it('hands every cpu to exactly one worker, evenly, when there are enough', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 64 }), fc.integer({ min: 1, max: 64 }), (cpuCount, workers) => {
        fc.pre(workers <= cpuCount);
        const cpus = Array.from({ length: cpuCount }, (_, i) => i * 2);
        const shares = shareCpus(cpus, workers, null);
        expect(shares.flatMap((share) => share.cpus!)).toEqual(cpus);
        const sizes = shares.map((share) => share.threads);
        expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1);
      }),
    );
  });

  it('reads the list format of the kernel', () => {
    expect(parseCpuList('0-2,7,9-10')).toEqual([0, 1, 2, 7, 9, 10]);
  });
});

describe('cluster shape', () => {
  const planFile = (folder: string, workers: { name: string; node: number }[]) => {
    const file = path.join(folder, 'plan.json');
    writeFileSync(file, JSON.stringify(contiguousPlan({ type: 'qwen3_moe', moeLayers: [0, 1], experts: 8 }, workers)));
    return file;
  };

  it('names workers by node', () => {
    expect(clusterShape({})).toEqual({
      plan: null,
      workers: [
        { name: 'n0w0', node: 'n0' },
        { name: 'n0w1', node: 'n0' },
        { name: 'n1w0', node: 'n1' },
        { name: 'n1w1', node: 'n1' },
      ],
    });
    expect(() => clusterShape({ nodes: 64, workersPerNode: 17 })).toThrow(/1088 workers; the limit is 1024/);
  });

  it('takes the workers of a plan, and refuses numbers that contradict it', () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    const plan = planFile(folder, [
      { name: 'left', node: 0 },
      { name: 'right', node: 1 },
      { name: 'far', node: 1 },
    ]);
    expect(clusterShape({ plan }).workers).toEqual([
      { name: 'left', node: 'n0' },
      { name: 'right', node: 'n1' },
      { name: 'far', node: 'n1' },
    ]);
    expect(() => clusterShape({ plan, nodes: 3 })).toThrow(/has 2 nodes, --nodes says 3/);
    expect(() => clusterShape({ plan, workersPerNode: 2 })).toThrow(/has 1, 2 workers on its nodes/);
    expect(() => clusterShape({ plan: path.join(folder, 'none.json') })).toThrow(/--plan .*none.json: ENOENT/);
    expect(() => clusterShape({ plan: path.join(folder, 'none.json') })).toThrow(expect.objectContaining({ status: 2 }));
    writeFileSync(plan, '');
    truncateSync(plan, limits.planBytesMax + 1); // Without a byte on the disk.
    expect(() => clusterShape({ plan })).toThrow(/--plan .*plan.json: it has more than 67108864 bytes/);
    writeFileSync(plan, '{');
    expect(() => clusterShape({ plan })).toThrow(/--plan .*plan.json: plan: not JSON/);
    expect(() => clusterShape({ plan })).toThrow(expect.objectContaining({ code: 'bad_plan' }));
    rmSync(folder, { recursive: true });
  });
});

describe('flags of a worker', () => {
  const around = { runFolder: '/run/here', tokenFile: '/t', controlAddress: 'unix:/c', graceMs: 1 };

  it.each(['rack1/host2', '../x', 'control', '-x', 'w'.repeat(200)])(
    'name its sockets by its place, whatever the plan calls it: %s',
    (name) => {
      const worker = { name, index: 12, node: 'n0', share: { threads: 1, cpus: null }, backend: 'cpu' as const };
      const addresses = (transport: LocalTransport) => {
        const args = workerArgs(worker, { ...around, transport });
        expect(args).toContain(`--name=${name}`);
        return args.filter((_, at) => args[at - 1] === '--data');
      };
      expect(addresses('shm')).toEqual(['shm:///run/here/w12.shm', 'uds:///run/here/w12.sock']);
      expect(addresses('uds')).toEqual(['uds:///run/here/w12.sock']);
    },
  );
});

describe('restart policy', () => {
  it('waits longer after each quick death, never beyond its limit, and calls a loop a loop', () => {
    let deaths = 0;
    const delays: number[] = [];
    for (let i = 0; i < 12; i++) {
      const decision = decideRestart(deaths, 100, 1);
      deaths = decision.deathsInARow;
      delays.push(decision.delayMs);
      expect(decision.crashLoop).toBe(i + 1 >= crashLoopDeaths);
    }
    expect(delays).toEqual([...delays].sort((a, b) => a - b));
    expect(delays[0]).toBe(250);
    expect(delays.slice(crashLoopDeaths - 2)).toEqual([2000, ...Array(12 - crashLoopDeaths + 1).fill(15_000)]);
  });

  it('starts afresh after a healthy life', () => {
    expect(decideRestart(7, 31_000, 0)).toEqual({ delayMs: 125, deathsInARow: 1, crashLoop: false });
  });

  it('is explained with the last words of a worker once a crash loop', () => {
    const worker = { index: 0, name: 'n0w0', node: 'n0', backend: 'cpu' as const, share: { threads: 1, cpus: null } };
    const told = Array.from({ length: crashLoopDeaths + 2 }, (_, before) =>
      explainDeath(
        {
          worker,
          end: { status: 7, signal: null },
          servedMs: 1,
          restartMs: 500,
          deathsInARow: before + 1,
          crashLoop: before + 1 >= crashLoopDeaths,
          lastLines: ['no such instruction'],
        },
        coloursOf({}, {}),
      ),
    );
    expect(told.map((text) => text.includes('no such instruction'))).toEqual(told.map((_, before) => before + 1 === crashLoopDeaths));
    for (const text of told) expect(text).toContain('worker n0w0 exited with status 7; it starts again in 0.5 s');
  });
});

describe('run folder', () => {
  it('is private, and goes', () => {
    const parent = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    const run = createRunFolder(parent);
    const second = createRunFolder(parent);
    expect(statSync(run.path).mode & 0o777).toBe(0o700);
    expect(statSync(run.tokenFile).mode & 0o777).toBe(0o600);
    expect(new Set([run, second].flatMap((r) => [r.tokenFile, r.adminTokenFile].map((file) => readFileSync(file, 'utf8')))).size).toBe(4);
    run.remove();
    expect(existsSync(run.path)).toBe(false);
    rmSync(parent, { recursive: true });
  });

  it('has room for the longest name of a socket in it', () => {
    const room = (longest: number) => `/${'x'.repeat(longest - '/control.sock'.length - 1)}`;
    expect([socketsFit(room(103)), socketsFit(room(104))]).toEqual([true, false]);
    expect(`w${limits.workersMax - 1}.sock`.length).toBeLessThan(controlSocket.length);
  });

  it('refuses a folder whose name is too long for a socket', () => {
    const parent = mkdtempSync(path.join(os.tmpdir(), 'x'.repeat(90)));
    expect(() => createRunFolder(parent)).toThrow(/set TMPDIR to a shorter one/);
    rmSync(parent, { recursive: true });
  });
});

describe('session', () => {
  it('is found by the url that it serves, and by no other', () => {
    const parent = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    const run = createRunFolder(parent);
    saveSession(run.path, { url: 'http://127.0.0.1:8123', adminToken: 'secret', traces: { dir: parent } });
    expect(findSession('http://localhost:8123', parent)?.adminToken).toBe('secret');
    // There anybody else may listen, and there `localhost` may lead: the secret goes to the address that is the session's.
    expect(findSession('http://[::1]:8123', parent)).toBeNull();
    expect(connectToSession('http://localhost:8123', 1000, parent)?.baseUrl).toBe('http://127.0.0.1:8123');
    expect(connectToSession('http://[::1]:8123', 1000, parent)).toBeNull();
    expect(findSession('http://127.0.0.1:8124', parent)).toBeNull();
    expect(findSession('http://127.0.0.1:8123', path.join(parent, 'nowhere'))).toBeNull();
    expect(findSession('http://10.0.0.1:8123', parent)).toBeNull();
    run.remove();
    expect(findSession('http://127.0.0.1:8123', parent)).toBeNull();
    rmSync(parent, { recursive: true });
  });

  it.each(['0.0.0.0', '[::]'])('that listens on %s is found by every name of this machine, and by no other', (host) => {
    const parent = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    saveSession(createRunFolder(parent).path, { url: `http://${host}:8123`, adminToken: 'secret', traces: { dir: parent } });
    const address = Object.values(os.networkInterfaces())
      .flatMap((list) => list ?? [])
      .find(({ family }) => family === 'IPv4')!.address;
    for (const name of ['localhost', '127.0.0.1', '0.0.0.0', os.hostname(), address])
      expect(findSession(`http://${name}:8123`, parent)?.adminToken, name).toBe('secret');
    for (const name of ['[::1]', '[::]'])
      expect(findSession(`http://${name}:8123`, parent)?.adminToken, name).toBe(host === '[::]' ? 'secret' : undefined);
    expect(findSession('http://localhost:8124', parent)).toBeNull();
    expect(findSession('http://example.com:8123', parent)).toBeNull();
    rmSync(parent, { recursive: true });
  });
});

describe('child process', () => {
  const quiet = { onStderr: () => {}, onStdout: () => {} };

  it('keeps the last lines of stderr and tells how it ended', async () => {
    const child = startChild({ args: ['-e', 'for (let i = 0; i < 30; i++) console.error("line " + i); process.exit(3)'], ...quiet });
    expect(await child.ended).toEqual({ status: 3, signal: null });
    expect(child.lastLines()).toHaveLength(20);
    expect(child.lastLines().at(-1)).toBe('line 29');
  });

  it('is killed when it will not stop', async () => {
    let sayReady: () => void = () => {};
    const ready = new Promise<void>((resolve) => {
      sayReady = resolve;
    });
    const child = startChild({
      args: ['-e', 'process.on("SIGTERM", () => {}); setInterval(() => {}, 1000); console.log("ready")'],
      ...quiet,
      onStdout: sayReady,
    });
    await ready;
    expect(await child.stop(50)).toEqual({ status: null, signal: 'SIGKILL' });
  });
});

describe('a server of one’s own', () => {
  it('is not started after Ctrl-C', async () => {
    const flags = ['--nodes', '1', '--workers-per-node', '1'];
    const started = startOwnServer(flags, () => {}, AbortSignal.abort());
    await expect(started).rejects.toMatchObject({ name: 'CommandFailure', status: 130 });
  });
});

describe('worker fleet', () => {
  it('restarts a worker that is killed and stops them all', async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    const program = path.join(folder, 'worker.mjs');
    writeFileSync(program, 'console.log("up"); process.stdin.resume(); process.stdin.on("end", () => process.exit());');
    const workers = ['n0w0', 'n0w1'].map((name, index) => ({
      index,
      name,
      node: 'n0',
      backend: 'cpu' as const,
      share: { threads: 1, cpus: null },
    }));
    const lines: string[] = [];
    const deaths: WorkerDeath[] = [];
    let check: () => void = () => {};
    const until = (condition: () => boolean) =>
      new Promise<void>((resolve) => {
        check = () => condition() && resolve();
        check();
      });
    const fleet = new WorkerFleet({
      workers,
      argsOf: () => [program],
      onDeath: (death) => void deaths.push(death),
      onLine: (worker, line) => {
        lines.push(`${worker.name} ${line}`);
        check();
      },
    });
    fleet.start();
    await until(() => lines.length === 2);
    const first = fleet.pidOf('n0w1')!;
    process.kill(first, 'SIGKILL');
    await until(() => lines.filter((line) => line === 'n0w1 up').length === 2);
    const pids = [fleet.pidOf('n0w0')!, fleet.pidOf('n0w1')!];
    expect(pids[1]).not.toBe(first);
    expect(deaths).toMatchObject([{ worker: { name: 'n0w1' }, end: { signal: 'SIGKILL' }, deathsInARow: 1, crashLoop: false }]);
    await fleet.stop(2000);
    expect(pids.map(processLives)).toEqual([false, false]);
    rmSync(folder, { recursive: true });
  });

  it('counts as healthy only the time in which a worker held its model', async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-'));
    const program = path.join(folder, 'worker.mjs');
    writeFileSync(program, 'console.log("up"); setInterval(() => {}, 1000);');
    let now = 0;
    let tellDeath: (death: WorkerDeath) => void = () => {};
    let tellUp: () => void = () => {};
    const fleet = new WorkerFleet({
      workers: [{ index: 0, name: 'n0w0', node: 'n0', share: { threads: 1, cpus: null }, backend: 'cpu' }],
      argsOf: () => [program],
      onDeath: (death) => tellDeath(death),
      onLine: () => tellUp(),
      now: () => now,
    });
    let up = new Promise<void>((resolve) => {
      tellUp = resolve;
    });
    fleet.start();
    /** The next life of the worker: a minute of loading, then so long with its model. */
    const live = async (servedMs: number | null) => {
      await up;
      const died = new Promise<WorkerDeath>((resolve) => {
        tellDeath = resolve;
      });
      up = new Promise<void>((resolve) => {
        tellUp = resolve;
      });
      now += 60_000;
      if (servedMs !== null) {
        fleet.noteLoaded(new Set([fleet.pidOf('n0w0')!]));
        now += servedMs;
        // Seen again it is not younger.
        fleet.noteLoaded(new Set([fleet.pidOf('n0w0')!]));
      }
      process.kill(fleet.pidOf('n0w0')!, 'SIGKILL');
      const death = await died;
      return [death.servedMs, death.deathsInARow];
    };
    expect(await live(null)).toEqual([0, 1]);
    expect(await live(null)).toEqual([0, 2]);
    expect(await live(29_000)).toEqual([29_000, 3]);
    expect(await live(31_000)).toEqual([31_000, 1]);
    await fleet.stop(2000);
    rmSync(folder, { recursive: true });
  });
});
