// Opens a page that no cache stores, through each cache, while the origin is dead. The script `outage` starts this script. This script
// begins when it gets SIGUSR2.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const task = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const { chromium } = createRequire(task.modules)('playwright-core')
const counts = {}

const browser = await chromium.launch({
  executablePath: task.chromium,
  // Chromium's sandbox does not work for root.
  args: process.getuid() === 0 ? ['--no-sandbox'] : [],
})

async function reads(peer, { base, source }) {
  const context = await browser.newContext({ locale: 'de-DE' })
  context.setDefaultTimeout(20_000)
  const count = (counts[peer] = { ids: [], beacons: 0 })
  // Count the beacons that the browser really sends.
  context.on('request', (request) => {
    if (new URL(request.url()).pathname === '/status/images/beacon.gif') count.beacons += 1
  })
  const page = await context.newPage()
  for (let load = 0; load < task.loads; load += 1) {
    const beacon = page.waitForResponse((response) => response.url().includes('/beacon.gif'))
    // Every second load is a reload.
    const again = load % 2 === 1
    const response = await (again ? page.reload({ waitUntil: 'load' }) : page.goto(`${base}/never/page.html?${load}`, { waitUntil: 'load' }))
    assert.equal(response.status(), 502)
    assert.equal(await page.getAttribute('html', 'lang'), 'de')
    assert.ok(await page.locator('#again').isVisible())
    const id = response.headers()['x-request-id']
    count.ids.push(id)
    const answer = await beacon
    assert.equal(answer.status(), 200)
    assert.ok(answer.url().includes(`source=${source}&`) && answer.url().endsWith(`&id=${id}`), answer.url())
    assert.equal(answer.headers()['content-type'], 'image/gif')
    assert.match(answer.headers()['cache-control'], /no-store/)
    assert.ok(!answer.fromServiceWorker())
  }
  await context.close()
}

try {
  const begin = once(process, 'SIGUSR2')
  console.log('READY')
  await begin
  await Promise.all(Object.entries(task.caches).map(([peer, cache]) => reads(peer, cache)))
} finally {
  await browser.close()
}
console.log(`COUNTS ${JSON.stringify(counts)}`)
