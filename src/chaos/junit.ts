/** A campaign as JUnit's XML, for whoever shows test results: a seed is a test case. @module */
import type { CampaignReport } from './campaign.ts';

/** Control characters but tab and line ends are no XML, even escaped. */
const NO_XML = /[^\t\n\r\u0020-\uD7FF\uE000-\uFFFD]/g;
const escaped = (text: string): string =>
  text.replace(NO_XML, '?').replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');

/** `commandOf`: what repeats a seed. */
export function junit({ seeds, failures }: CampaignReport, commandOf: (seed: number) => string): string {
  const failed = new Map(failures.map((failure) => [failure.seed, failure]));
  const cases = seeds.map((seed) => {
    const failure = failed.get(seed);
    const name = `  <testcase classname="minipod.chaos" name="seed ${seed}"`;
    if (failure === undefined) return `${name}/>`;
    const text = [...failure.violations.map(({ what }) => what), commandOf(failure.seed)].join('\n');
    return `${name}><failure type="${escaped(failure.verdict)}" message="${escaped(failure.violations[0]?.what ?? '')}">${escaped(text)}</failure></testcase>`;
  });
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    `<testsuite name="minipod chaos" tests="${seeds.length}" failures="${failures.length}">`,
    ...cases,
    '</testsuite>',
    '',
  ].join('\n');
}
