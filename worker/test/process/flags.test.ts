import { tmpdir } from 'node:os';
import path from 'node:path';
import { SwitchyardError } from '@switchyard/proto';
import { describe, expect, test } from 'vitest';
import { flagsHelp, parseFlags } from '../../src/process/flags.ts';

const needed = ['--coordinator', 'unix:/run/c.sock', '--name', 'n0w1', '--node', 'n0'];

describe('flags of the worker', () => {
  test('what is not given has its default', () => {
    const flags = parseFlags(needed)!;
    expect(flags).toMatchObject({
      coordinator: 'unix:/run/c.sock',
      name: 'n0w1',
      node: 'n0',
      threads: 1,
      cpus: null,
      backend: 'cpu',
      isa: 'auto',
      supervised: false,
    });
    expect(flags.data).toEqual([expect.stringMatching(/^shm:\/\/.*n0w1/), expect.stringMatching(/^uds:\/\/.*n0w1/)]);
  });

  test.each([
    ['w'.repeat(256), 'w'.repeat(255)],
    ['rack/7', 'rack:7'],
    ['../../etc/w0', '-..-etc-w0'],
    ['größe', 'gröse'],
  ])('without addresses any name has sockets of its own in the temporary folder: %s', (name, other) => {
    const addressesOf = (given: string) => parseFlags([...needed, `--name=${given}`])!.data;
    for (const address of addressesOf(name)) {
      const socket = address.slice('shm://'.length);
      expect(path.dirname(socket)).toBe(tmpdir());
      expect(Buffer.byteLength(path.basename(socket))).toBeLessThan(64);
      expect(addressesOf(other)).not.toContain(address);
    }
  });

  test('lists, ranges, switches and repeated flags', () => {
    const flags = parseFlags([
      ...needed,
      '--data',
      'uds:///a',
      '--data=tcp://h:1',
      '--cpus',
      '0,4-6',
      '--threads',
      '4',
      '--supervised',
      '--name',
      'last',
    ])!;
    expect(flags).toMatchObject({ data: ['uds:///a', 'tcp://h:1'], cpus: [0, 4, 5, 6], threads: 4, supervised: true, name: 'last' });
  });

  test.each([
    [['--name', 'a', '--node', 'b'], '--coordinator is missing'],
    [[...needed, '--threads', '0'], '--threads is 0; it must be a whole number'],
    [[...needed, '--threads', 'many'], '--threads is many'],
    [[...needed, '--isa', 'sse'], '--isa is sse; it must be one of auto, avx512, avx2'],
    [[...needed, '--backend', 'gpu'], '--backend is gpu; it must be cpu, cpu-ref, cuda or cuda:N'],
    [[...needed, '--backend', 'cuda:x'], '--backend is cuda:x; it must be'],
    [[...needed, '--cpus', '1-'], '--cpus is 1-; it must be CPU numbers'],
    [[...needed, '--cpus', '0,1'], '--cpus is 2 CPUs; it must be as many as --threads, 1'],
    [[...needed, '--name='], '--name is empty'],
    [[...needed, '--colour', 'red'], '--colour'],
  ])('%j is refused', (args, message) => {
    expect(() => parseFlags(args)).toThrow(SwitchyardError);
    expect(() => parseFlags(args)).toThrow(message);
  });

  test('help names every flag', () => {
    expect(parseFlags(['--help'])).toBeNull();
    for (const flag of ['coordinator', 'data', 'threads', 'cpus', 'token-file', 'tls-ca', 'grace-ms', 'supervised'])
      expect(flagsHelp()).toContain(`--${flag}`);
  });
});
