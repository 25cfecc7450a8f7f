/** Polls: what is waited for happens in other processes or in turns of the event loop to come. */
export async function becomes(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 5));
}
