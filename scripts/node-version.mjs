/** As `engines` in every package.json: what the test runner needs. Version 21 is no longer maintained, and 22 came with it in 22.12. */
export const nodeNeeded = '^20.19.0 || >=22.12.0';

/** @param version such as `process.versions.node` */
export function nodeSuffices(version) {
  const [major, minor] = version.split('.').map(Number);
  return (major === 20 && minor >= 19) || (major === 22 && minor >= 12) || major > 22;
}
