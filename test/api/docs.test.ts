import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { contiguousPlan } from '@switchyard/proto';
import { describe, expect, it } from 'vitest';
import { environmentPrefix, options } from '../../coordinator/src/config.ts';
import { createLog } from '../../coordinator/src/log.ts';
import { Membership } from '../../coordinator/src/membership/membership.ts';
import { Metrics } from '../../coordinator/src/metrics/metrics.ts';
import { vllmSuffixes } from '../../coordinator/src/metrics/names.ts';
import { documentationOf } from '../../coordinator/src/option-table.ts';

/** `UPDATE_DOCS=1 npx vitest run test/api/docs` writes the parts of the pages that follow from tables in the code. */
function expectPart(page: string, part: string, content: string): void {
  const file = fileURLToPath(new URL(`../../docs/${page}`, import.meta.url));
  const text = readFileSync(file, 'utf8');
  const [begin, end] = [`<!-- ${part} -->\n`, `<!-- /${part} -->`];
  const [from, to] = [text.indexOf(begin) + begin.length, text.indexOf(end)];
  expect(to).toBeGreaterThan(from - 1);
  if (process.env.UPDATE_DOCS === '1') writeFileSync(file, `${text.slice(0, from)}${content}\n${text.slice(to)}`);
  else expect(text.slice(from, to)).toBe(`${content}\n`);
}

describe('documentation', () => {
  it('lists every option as it is', () => {
    expectPart('api.md', 'options', documentationOf(options, environmentPrefix));
  });

  it('lists every metric as it is', async () => {
    const plan = contiguousPlan({ type: 'x', moeLayers: [0], experts: 2 }, [{ name: 'n0w0', node: 0 }]);
    const engine = {} as ConstructorParameters<typeof Membership>[0]['engine'];
    const nothing = () => {};
    const events = { onTokens: nothing, onTrace: nothing, onStats: nothing, onDrained: nothing, onLost: nothing, onChange: nothing };
    const membership = new Membership({ epoch: 1, modelDir: '', plan, engine }, events, createLog('silent'));
    const metrics = new Metrics({ model: 'm', version: '0', plan, numericClass: () => 'bf16', planChecksum: '' }, 'none');
    metrics.watch(membership, { running: 0, waiting: 0 });
    const families = (await metrics.registry.getMetricsAsJSON()).map(({ name, type, help }) => {
      const labels = (metrics.registry.getSingleMetric(name) as unknown as { labelNames: string[] }).labelNames.filter(
        (label) => label !== 'model_name',
      );
      const suffix = name.slice('switchyard_'.length);
      return `| \`${name}\` | ${type} | ${labels.join(', ')} | ${help}${vllmSuffixes.includes(suffix) ? '' : ' (ours alone)'} |`;
    });
    const known = families.map((row) => /switchyard_(\w+)/.exec(row)![1]);
    expect(vllmSuffixes.filter((suffix) => !known.includes(suffix))).toEqual([]);
    expectPart(
      'observe.md',
      'metrics',
      ['| metric | kind | labels beside model_name | is |', '| --- | --- | --- | --- |', ...families].join('\n'),
    );
  });
});
