// The browser part of tests/real/admin_page. Not executable, so that tests/run does not run it as a test.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { look as looked } from './page_checks.mjs'

const task = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const require = createRequire(task.modules)
const { chromium } = require('playwright-core')
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8')

const SIZES = { phone: { width: 375, height: 740 }, desk: { width: 1400, height: 900 } }
const problems = []

const browser = await chromium.launch({
  executablePath: task.chromium,
  // Chromium's sandbox does not work for root.
  args: [
    ...(process.getuid() === 0 ? ['--no-sandbox'] : []),
    // The name of another site, which resolves to the address of the listener.
    '--host-resolver-rules=MAP rebound.test 127.0.0.1',
  ],
})

// Opens a page. A script error, a message on the console and a breach of the Content-Security-Policy fail the test.
async function open(state, size = 'desk', path = '/') {
  const context = await browser.newContext({ viewport: SIZES[size] })
  context.setDefaultTimeout(10_000)
  const page = await context.newPage()
  page.on('pageerror', (error) => problems.push(`${state}: ${error.stack}`))
  page.on('console', (message) => {
    // The list of top URLs is optional: if /api/top answers 404, the page shows an empty state.
    const isTop = message.location().url.endsWith('/api/top')
    if (['error', 'warning'].includes(message.type()) && !isTop) problems.push(`${state}: ${message.text()}`)
  })
  await page.addInitScript(() => {
    window.breaches = []
    document.addEventListener('securitypolicyviolation', (event) => window.breaches.push(`${event.violatedDirective} ${event.blockedURI}`))
  })
  await page.goto(task.admin[state] + path)
  return page
}

const live = (page) => page.waitForFunction(() => document.getElementById('live').textContent === '● live')

const look = (page, name) => looked(page, name, { pictures: task.pictures, axe })

async function empty() {
  const page = await open('empty')
  await live(page)
  const text = await page.locator('main').innerText()
  for (const part of ['No pulls in the last 30 seconds', 'No provider is configured', 'No edge logs yet', 'No pulls in the last two minutes']) {
    assert.ok(text.includes(part), `${part} is missing in:\n${text}`)
  }
  await look(page, 'empty')
  await page.context().close()
}

async function quiet(size) {
  const page = await open('quiet', size)
  await live(page)
  await page.locator('#range input').first().check()
  await page.locator('#charts .series').first().waitFor()
  assert.ok((await page.locator('#state').innerText()).includes('No outage'))
  const row = (await page.locator('#providers tbody tr').first().innerText()).replace(/\s+/g, ' ')
  assert.match(row, /fastly.*\/s.*[kM]B\/s.*%.*ms/)
  assert.match(await page.locator('#providers tbody tr').first().locator('[data-label="offload, requests"]').innerText(), /^\d.* %$/)
  await look(page, size === 'phone' ? 'phone' : 'quiet')
  await page.context().close()
}

async function ramp() {
  const page = await open('ramp')
  await live(page)
  await page.locator('#range input').first().check()
  await page.locator('#share-head').waitFor()
  assert.ok((await page.locator('.flag').first().textContent()).startsWith('weights: fastly'))
  // Most clients change within seconds. The change of the rest has not arrived while the test runs.
  await page.locator('#state li').filter({ hasText: '50 % after ' }).first().waitFor({ timeout: 30_000 })
  const text = (await page.locator('#state').innerText()).replace(/\s+/g, ' ')
  assert.match(text, /weights: fastly 45 % to 6 %.* · \d\d:\d\d:\d\d \(.* ago\) · still arriving/)
  for (const part of [/fastly: 4\d\.\d % → [\d.]+ %, wanted 6\.0 % · of the change arrived: 50 % after \d+ s, /, /akamai: 3\d\.\d % → [\d.]+ %, wanted 76\.0 %/, / not yet/]) {
    assert.match(text, part)
  }
  assert.ok(!text.includes('cloudflare'), `the share of cloudflare does not change: ${text}`)
  const rows = (await page.locator('#steps tbody').innerText()).replace(/\s+/g, ' ')
  assert.match(rows, /fastly .* akamai .*not yet/)
  assert.equal(await page.locator('.wanted').count(), 2)
  assert.ok((await page.locator('#events li').first().innerText()).includes('weights'))
  await look(page, 'ramp')
  await page.setViewportSize(SIZES.phone)
  await look(page, 'ramp-phone')
  await page.context().close()
}

async function incident() {
  const page = await open('incident')
  await live(page)
  await page.locator('#range input').first().check()
  await page.locator('#state.bad').waitFor()
  const text = (await page.locator('#state').innerText()).replace(/\s+/g, ' ')
  assert.match(text, /Outage: fastly, since \d\d:\d\d:\d\d/)
  assert.match(text, /fastly: [\d.]+ % of its pulls are 5xx · class html [\d.]+ %/)
  assert.match(text, /Just before: deploy 1234/)
  assert.ok(!text.includes('akamai'), text)
  assert.match(await page.title(), /^▲ fastly/)
  assert.ok(await page.locator('#providers td.bad').count())
  assert.ok(await page.locator('.outages rect').count())
  await look(page, 'incident')
  const box = await page.locator('#state').boundingBox()
  assert.ok(box.y + box.height < 400, 'the state must be at the top')
  await page.context().close()
}

// The controls, the providers and the charts are reachable by Tab. Home moves to the start of a chart and reads it, and Enter on a
// provider hides its lines.
async function keyboard() {
  const page = await open('incident')
  await live(page)
  await page.locator('#charts .series').first().waitFor()
  const focus = () => page.evaluate(() => {
    const { id, name, tagName, textContent, parentNode } = document.activeElement
    return { what: id || name || (tagName === 'BUTTON' && textContent) || parentNode.id || tagName, role: document.activeElement.getAttribute('role') }
  })
  const seen = []
  for (let step = 0; step < 40 && !seen.includes('text'); step += 1) {
    await page.keyboard.press('Tab')
    const { what, role } = await focus()
    seen.push(what)
    if (role === 'slider' && !seen.includes('read')) {
      seen.push('read')
      const before = await page.locator(':focus').getAttribute('aria-valuetext')
      await page.keyboard.press('Home')
      const after = await page.locator(':focus').getAttribute('aria-valuetext')
      assert.match(after, /^\d\d:\d\d:\d\d: fastly .*, akamai /)
      assert.ok(before && await page.locator('.tip:visible').count() === 1)
    }
    if (what === 'fastly') {
      assert.ok(await page.locator('.series.strong').count(), 'the focused line is emphasised')
      await page.keyboard.press('Enter')
      assert.equal(await page.locator('.series[data-name=fastly]').count(), 0, 'the line is hidden')
      await page.keyboard.press('Enter')
    }
  }
  for (const wanted of ['range', 'lines', 'providers', 'fastly', 'akamai', 'read', 'quantile', 'text']) assert.ok(seen.includes(wanted), `${wanted}: ${seen}`)
  await page.context().close()
}

// An event that is posted shows on another open page within two seconds, also as a line on a chart. Another site can neither post an event
// nor read the page.
async function event() {
  const [page, other] = [await open('quiet'), await open('quiet')]
  await live(page)
  await live(other)
  await page.locator('#range input').first().check()
  await other.fill('#text', 'deploy <b>5678</b>')
  await other.keyboard.press('Enter')
  const started = Date.now()
  await page.locator('#events li').filter({ hasText: 'deploy <b>5678</b>' }).waitFor({ timeout: 2000 })
  await page.locator('.flag').filter({ hasText: 'deploy <b>5678</b>' }).first().waitFor({ timeout: 2000 })
  assert.ok(Date.now() - started < 2000)
  console.log(`event shown after ${Date.now() - started} ms`)
  // A page of another origin cannot post.
  const evil = await (await browser.newContext()).newPage()
  await evil.goto(`${task.admin.empty}/livez`)
  const status = await evil.evaluate(async (url) => {
    const simple = await fetch(url, { method: 'POST', mode: 'no-cors', headers: { 'Content-Type': 'text/plain' }, body: '{"text":"forged"}' })
    const json = await fetch(url, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"text":"forged"}' }).catch(() => 'refused')
    return [simple.type, json]
  }, `${task.admin.quiet}/annotations`)
  assert.deepEqual(status, ['opaque', 'refused'])
  const { annotations } = await (await fetch(`${task.admin.quiet}/annotations`)).json()
  assert.deepEqual(annotations.map(({ text }) => text).filter((text) => !text.startsWith('edgeshim')), ['deploy <b>5678</b>'])
  // A name of another site that resolves to the listener cannot read the page.
  for (const path of ['/', '/config', '/api/summary']) {
    const response = await evil.goto(task.admin.empty.replace('127.0.0.1', 'rebound.test') + path)
    assert.equal(response.status(), 403, path)
  }
  await evil.context().close()
  await page.context().close()
  await other.context().close()
}

// The form refuses a wrong token and accepts the right one. Then the page of a process without a history shows a posted event.
async function logIn() {
  const page = await open('locked', 'phone')
  problems.splice(0, problems.length, ...problems.filter((text) => !text.includes('401')))
  await look(page, 'log-in')
  await page.fill('#token', 'wrong')
  await page.keyboard.press('Enter')
  await page.locator('[role=alert]').waitFor()
  await page.fill('#token', task.token)
  await page.keyboard.press('Enter')
  await live(page)
  const [cookie] = await page.context().cookies()
  assert.ok(cookie.httpOnly && cookie.sameSite === 'Strict' && !cookie.value.includes(task.token))
  await page.fill('#text', 'noted')
  await page.keyboard.press('Enter')
  await page.locator('#events li').filter({ hasText: 'noted' }).waitFor()
  problems.splice(0, problems.length, ...problems.filter((text) => !text.includes('401')))
  await page.context().close()
}

let failed = false
try {
  for (const [name, part] of Object.entries({
    logIn, incident, quiet: () => quiet('desk'), phone: () => quiet('phone'), empty, keyboard, event, ramp,
  })) {
    const started = Date.now()
    await part().catch((error) => {
      failed = true
      console.log(`${name}: ${error.stack}`)
    })
    console.log(`${name}: ${Date.now() - started} ms`)
  }
  assert.deepEqual(problems, [])
} finally {
  await browser.close()
}
process.exit(failed ? 1 : 0)
