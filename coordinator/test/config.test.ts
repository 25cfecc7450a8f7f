import { constants } from 'node:buffer';
import { describe, expect, it } from 'vitest';
import { completeConfig, environmentPrefix, help, options, readConfig } from '../src/config.ts';
import { environmentNameOf, flagOf } from '../src/option-table.ts';

const model = ['--model', 'm'];

describe('configuration', () => {
  it('comes from flags, then the environment, then defaults', () => {
    const environment = { SWITCHYARD_COORDINATOR_NODES: '3', SWITCHYARD_COORDINATOR_LISTEN: '0.0.0.0:1', SWITCHYARD_OTHER: 'x' };
    const config = readConfig([...model, '--nodes', '2', '--no-prefix-cache', '--kv-bytes=1048576', '--supervised'], environment);
    expect(config).toMatchObject({
      model: 'm',
      nodes: 2,
      listen: '0.0.0.0:1',
      prefixCache: false,
      kvBytes: 1_048_576,
      supervised: true,
      workersPerNode: 1,
    });
    expect(Object.isFrozen(config)).toBe(true);
  });

  it.each([
    [[...model, '--fly'], /^--fly is not an option/],
    [[...model, 'fly'], /^fly is not an option/],
    [[], /^--model must be given/],
    [[...model, '--nodes'], /^--nodes needs a value \(N\)/],
    [[...model, '--nodes', '0'], /^--nodes is "0": it must be a whole number from 1 to 1024/],
    [[...model, '--nodes', 'two'], /^--nodes is "two": it must be a whole number from 1 to 1024/],
    [[...model, '--grace-ms='], /^--grace-ms is "": it must be a whole number from 0 to 86400000/],
    [[...model, '--kv-blocks', ' '], /^--kv-blocks is " ": it must be a whole number/],
    [[...model, '--max-context', '1e3'], /^--max-context is "1e3": it must be a whole number/],
    [[...model, '--numeric', 'fp8'], /^--numeric is "fp8": it must be one of auto, bf16, f32/],
    [[...model, '--listen', '8000'], /^--listen is "8000": it must be HOST:PORT/],
    [[...model, '--prefix-cache', 'yes'], /^yes is not an option/],
    [[...model, '--prefix-cache=yes'], /^--prefix-cache is "yes": it must be true or false/],
    [[...model, '--no-nodes'], /^--no-nodes is not a switch/],
    [[...model, '--max-sequences', '257'], /^--max-sequences is "257": it must be a whole number from 1 to 256/],
    [[...model, '--model='], /^--model is "": it must not be empty/],
  ])('%j is an error that names the option', (args, message) => {
    expect(() => readConfig(args, {})).toThrow(message);
  });

  it('takes bodies that can be read as text, and no longer ones', () => {
    const most = 511 * 1024 ** 2;
    expect(readConfig([...model, '--body-bytes-max', String(most)], {}).bodyBytesMax).toBe(most);
    expect(most).toBeLessThan(constants.MAX_STRING_LENGTH);
    expect(() => readConfig([...model, '--body-bytes-max', String(2 ** 29)], {})).toThrow(/from 1024 to 535822336$/);
  });

  it('holds for programs too, which give numbers', () => {
    expect(completeConfig({ model: 'm', maxSequences: 256 }).maxSequences).toBe(256);
    expect(() => completeConfig({ model: 'm', maxSequences: 300 })).toThrow(
      /^--max-sequences is 300: it must be a whole number from 1 to 256/,
    );
  });

  it('names the variable of the environment that is wrong', () => {
    expect(() => readConfig(model, { SWITCHYARD_COORDINATOR_FLY: '1' })).toThrow(/^SWITCHYARD_COORDINATOR_FLY is no option/);
    expect(() => readConfig(model, { SWITCHYARD_COORDINATOR_NODES: 'x' })).toThrow(
      /^SWITCHYARD_COORDINATOR_NODES is "x": it must be a whole number from 1 to 1024/,
    );
  });

  it('has defaults that its own rules accept, and a line of help for each option', () => {
    const text = help();
    for (const [key, { fallback, schema, value }] of Object.entries(options)) {
      if (key !== 'model')
        expect(schema.safeParse(value === null || typeof fallback !== 'number' ? fallback : String(fallback)).success, key).toBe(true);
      expect(text).toContain(flagOf(key));
      expect(environmentNameOf(environmentPrefix, key)).toMatch(/^SWITCHYARD_COORDINATOR_[A-Z_]+$/);
    }
    expect(completeConfig({ model: 'm' })).toEqual(readConfig(model, {}));
  });
});
