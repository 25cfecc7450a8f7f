// Results as a page: medians, and ratios taken round by round so that both sides of a ratio saw the same machine.

/** @param run { command, machine, cells: [{ mode, bytes, samples: { name: number[] } }], subjects } */
export function report({ command, machine, cells, subjects }) {
  const lines = [
    '# Links: round trips and throughput',
    '',
    `\`${command}\`, ${machine.date}, ${machine.cores} × ${machine.cpu}, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB, ${machine.kernel}, Node ${machine.node},`,
    `load average ${machine.load.toFixed(1)}. Two processes on one machine (memory: one process). Medians of the rounds; ratios are taken within a round, then their`,
    'median. The baseline is blocking C with the same framing and no handshake; gRPC is compared with C over TCP.',
    '',
  ];
  const echo = cells.filter((c) => c.mode === 'echo');
  lines.push(
    '## Round trip, µs (× the baseline; less is better)',
    '',
    ...table(echo, subjects, (seconds) => (seconds * 1e6).toFixed(0)),
    '',
  );
  const stream = cells.filter((c) => c.mode === 'stream');
  lines.push('## One way, GB/s (× the baseline; more is better)', '', ...table(stream, subjects, (bytes) => (bytes / 1e9).toFixed(2)), '');
  const tuned = stream.map((c) => `${ratio(c.samples.grpc, c.samples['gRPC as it comes']).toFixed(1)}× at ${size(c.bytes)}`);
  lines.push(`The grpc transport is faster than gRPC as it comes by ${tuned.join(', ')}.`, '');
  return lines.join('\n');
}

function table(cells, subjects, show) {
  const names = Object.keys(cells[0].samples);
  const rows = names.map((name) => {
    const baseline = subjects[name]?.baseline;
    const values = cells.map((c) => {
      const shown = show(median(c.samples[name]));
      return baseline == null ? shown : `${shown} (${ratio(c.samples[name], c.samples[`C ${baseline}`]).toFixed(2)}×)`;
    });
    return `| ${name} | ${values.join(' | ')} |`;
  });
  return [`| | ${cells.map((c) => size(c.bytes)).join(' | ')} |`, `| --- |${cells.map(() => ' ---: |').join('')}`, ...rows];
}

function ratio(samples, others) {
  return median(samples.map((value, round) => value / others[round]));
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function size(bytes) {
  return bytes >= 1024 * 1024 ? `${bytes / 1024 / 1024} MiB` : `${bytes / 1024} KiB`;
}
