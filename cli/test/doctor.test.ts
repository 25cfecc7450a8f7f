import { afterEach, describe, expect, it, vi } from 'vitest';
import { tryBackend, tryBackends } from '../src/cluster/backend-trial.ts';
import { checkLocalLinks, checkPeerAddresses, peerChoices } from '../src/doctor/links.ts';
import { describeBandwidth, memoryLeft } from '../src/doctor/machine.ts';
import { describeCpu } from '../src/doctor/native-kernels.ts';
import { bytesPerThread, measureReadBandwidth } from '../src/doctor/read-bandwidth.ts';
import { checkTemporaryFolder } from '../src/doctor/software.ts';

const mib = 1024 ** 2;

describe('read bandwidth', () => {
  it('is measured on a quarter of the available memory at most, over all threads', () => {
    expect(bytesPerThread(4, 64 * 1024 * mib)).toBe(192 * mib);
    expect(bytesPerThread(64, 1024 * mib)).toBe(4 * mib);
    for (const threads of [1, 2, 7, 64, 384]) expect(threads * bytesPerThread(threads, 256 * mib)).toBeLessThanOrEqual(64 * mib);
  });

  it('says when it was measured on less than caches hold', () => {
    expect(describeBandwidth(2e10, 2, bytesPerThread(2, 64 * 1024 * mib)).found).toMatch(
      /^about 20 GB\/s read by 2 threads in single streams: /,
    );
    expect(describeBandwidth(2e10, 2, bytesPerThread(2, 256 * mib)).found).toMatch(
      /read by 2 threads in single streams of 32.0 MiB each, for want of memory/,
    );
  });

  it('is a number however little is read', async () => {
    expect(await measureReadBandwidth(2, mib)).toBeGreaterThan(0);
  });
});

describe('kernels', () => {
  it('are worth a warning where this processor has scalar code alone', () => {
    expect(describeCpu({ isa: 'avx2', abi: 5 })).toMatchObject({ status: 'ok', found: 'cpu, avx2, ABI 5' });
    expect(describeCpu({ isa: 'scalar', abi: 5 })).toMatchObject({ status: 'warning', fix: expect.stringMatching(/AVX2/) });
  });
});

describe('the memory of a container', () => {
  const machine = 64 * 1024 * mib;

  it('is what its limit leaves, page cache that nobody uses counted as free', () => {
    const stat = `anon 1\ninactive_file ${300 * mib}\nactive_file 5\n`;
    expect(memoryLeft(`${2048 * mib}\n`, `${1948 * mib}\n`, stat, machine)).toEqual({ limit: 2048 * mib, available: 400 * mib });
    expect(memoryLeft(`${2048 * mib}\n`, `${2048 * mib}\n`, '', machine)).toEqual({ limit: 2048 * mib, available: 0 });
    expect(memoryLeft(`${2048 * mib}\n`, `${100 * mib}\n`, stat, machine)).toEqual({ limit: 2048 * mib, available: 2048 * mib });
    // The first version's statistics have both, and a limit that is none is a large number.
    const first = `inactive_file 1\ntotal_inactive_file ${300 * mib}\n`;
    expect(memoryLeft(`${2048 * mib}`, `${1948 * mib}`, first, machine)?.available).toBe(400 * mib);
  });

  it('is unknown where nothing limits it', () => {
    for (const limit of ['max\n', `${machine}`, '9223372036854771712\n']) expect(memoryLeft(limit, '1', '', machine)).toBeNull();
  });
});

describe('a temporary folder that is not there', () => {
  afterEach(() => void vi.unstubAllEnvs());

  it('is a finding with what to do, and takes only the links that need one', async () => {
    vi.stubEnv('TMPDIR', '/nowhere');
    expect(checkTemporaryFolder()).toMatchObject({
      status: 'failed',
      found: expect.stringMatching(/ENOENT.*\/nowhere/),
      fix: expect.stringMatching(/TMPDIR/),
    });
    expect((await checkLocalLinks()).map(({ name }) => name).sort()).toEqual(['link grpc', 'link memory', 'link tcp']);
  });
});

describe('the trial of a backend', () => {
  afterEach(() => void vi.unstubAllGlobals());

  it('is each one’s own', async () => {
    expect(await tryBackends(['cpu', 'cpu-ref'])).toMatchObject([
      { backend: 'cpu', refusal: null, trouble: null },
      { backend: 'cpu-ref', refusal: null, trouble: null },
    ]);
  });

  it.each([
    ['hangs', 'setInterval(() => {}, 1000);', 100, 'opening it took more than 0.1 s'],
    ['crashes', "process.kill(process.pid, 'SIGSEGV'); setInterval(() => {}, 1000);", 60_000, 'opening it was ended by SIGSEGV'],
  ])('that %s says so', async (_, program, msMax, refusal) => {
    expect(await tryBackend('cuda', program, msMax)).toEqual({ backend: 'cuda', found: null, refusal, trouble: 'failed' });
  });

  it.each([
    ['an event says why', '/nowhere/node', 'spawn /nowhere/node ENOENT'],
    ['it is thrown', '/nowhere\0node', "The argument 'file' must be a string without null bytes. Received '/nowhere\\x00node'"],
  ])('that no process can be made for says so: %s', async (_, execPath, why) => {
    vi.stubGlobal('process', Object.create(process, { execPath: { value: execPath } }));
    const refusal = `no process can be made for it: ${why}; see how many there may be, and free memory`;
    expect(await tryBackend('cuda', '', 60_000)).toEqual({ backend: 'cuda', found: null, refusal, trouble: 'failed' });
  });

  it('whose kernels do not load at all says why', async () => {
    await expect(tryBackend('cpu', "throw new Error('no such file')", 60_000)).rejects.toThrow('Error: no such file');
  });
});

describe('addresses of a peer', () => {
  it('that are none are the user’s mistake, and named', () => {
    expect(() => peerChoices(['10.0.0.2:4101'])).toThrow(/--link: address "10.0.0.2:4101" is not scheme/);
    expect(() => peerChoices(['10.0.0.2:4101'])).toThrow(expect.objectContaining({ status: 2 }));
  });

  it('whose port does not exist do not answer', async () => {
    const [check] = await checkPeerAddresses(peerChoices(['tcp://127.0.0.1:70000']));
    expect(check).toMatchObject({ status: 'warning', found: 'tcp://127.0.0.1:70000: does not answer: there is no port 70000' });
  });
});
