/**
 * Polls: what is waited for happens in other processes or in turns of the event loop to come. It fails with the condition's own text, which a test that runs into
 * its limit does not.
 */
export async function becomes(condition: () => boolean | Promise<boolean>, { everyMs = 5, msMax = 30_000 } = {}): Promise<void> {
  const end = performance.now() + msMax;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`it did not become so within ${msMax} ms: ${condition}`);
    // Without a wait the next turn of the event loop comes as soon as what has arrived is served.
    await new Promise((resolve) => (everyMs === 0 ? setImmediate(resolve) : setTimeout(resolve, everyMs)));
  }
}
