import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { limits, readSecretFile, readTlsFiles, readTokenFile } from '../src/index.ts';

const folder = mkdtempSync(path.join(os.tmpdir(), 'sw-secret-'));
afterAll(() => rmSync(folder, { recursive: true }));

function file(name: string, content: string | Uint8Array): string {
  const at = path.join(folder, name);
  writeFileSync(at, content);
  return at;
}

it('a token is read without the space around it', () => {
  expect(readTokenFile(file('token', '  hush \n'), '--token-file')).toBe('hush');
  expect(readTokenFile(null, '--token-file')).toBe('');
});

it.each([
  ['is empty', () => file('empty', '\n'), 'is empty'],
  ['has two lines', () => file('lines', 'hush\nquiet\n'), 'a token is one line of ASCII'],
  ['has a tab', () => file('tab', 'hush\tquiet'), 'a token is one line of ASCII'],
  ['has letters that no header holds', () => file('letters', 'psst…'), 'a token is one line of ASCII'],
  ['is no text', () => file('bytes', Uint8Array.of(104, 0xff, 105)), 'is not UTF-8 text'],
  ['is not there', () => path.join(folder, 'missing'), 'no such file or directory'],
  ['is a folder', () => folder, 'illegal operation on a directory'],
  [
    'is longer than a secret can be',
    () => file('long', 'x'.repeat(limits.secretFileBytesMax + 1)),
    `it has more than ${limits.secretFileBytesMax} bytes`,
  ],
  ['never ends', () => '/dev/zero', `it has more than ${limits.secretFileBytesMax} bytes`],
])('a file that %s is refused by the name of the option', (_, make, why) => {
  const at = make();
  expect(() => readTokenFile(at, '--token-file')).toThrow(`--token-file ${at}: ${why}`);
});

it('a file of the greatest length, and a pipe, are read whole', () => {
  expect(readSecretFile(file('longest', 'x'.repeat(limits.secretFileBytesMax)), '--key').length).toBe(limits.secretFileBytesMax);
  const pipe = path.join(folder, 'pipe');
  execFileSync('mkfifo', [pipe]);
  execFileSync('sh', ['-c', `(printf 'a\\n'; sleep 0.1; printf 'b\\n') > ${pipe} &`], { stdio: 'ignore' });
  expect(new TextDecoder().decode(readSecretFile(pipe, '--key'))).toBe('a\nb\n');
});

it('a certificate and its key come together, an authority may come alone', () => {
  const [ca, cert, key] = ['ca', 'cert', 'key'].map((name) => file(name, name));
  const bytes = (text: string) => Buffer.from(text);
  expect(readTlsFiles({ tlsCa: null, tlsCert: null, tlsKey: null }, 'n')).toBeNull();
  expect(readTlsFiles({ tlsCa: ca, tlsCert: null, tlsKey: null }, null)).toEqual({
    ca: bytes('ca'),
    cert: null,
    key: null,
    serverName: null,
  });
  expect(readTlsFiles({ tlsCa: ca, tlsCert: cert, tlsKey: key }, 'n')).toEqual({
    ca: bytes('ca'),
    cert: bytes('cert'),
    key: bytes('key'),
    serverName: 'n',
  });
  expect(() => readTlsFiles({ tlsCa: null, tlsCert: cert, tlsKey: null }, null)).toThrow('--tls-cert and --tls-key are needed together');
});
