// The checks that every page in a real browser must pass.
import assert from 'node:assert/strict'
import { join } from 'node:path'

// Checks a state in light and dark, and takes its pictures.
export async function look(page, name, { pictures, axe }) {
  // axe-core is evaluated by the debugger, which the policy does not forbid.
  await page.evaluate(axe)
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme })
    await page.screenshot({ path: join(pictures, `${name}-${colorScheme}.png`), fullPage: true })
    const { violations } = await page.evaluate(() => axe.run({ rules: { 'target-size': { enabled: true } } }))
    const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join(', ')}`)
    assert.deepEqual(found, [], `${name}, ${colorScheme}`)
  }
  assert.deepEqual(await page.evaluate(() => window.breaches), [], `${name}: breaches of the policy`)
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name}: wider than the window`)
}
