// The browser part of tests/real/pages. This file is not executable, so that tests/run does not run it as a test.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const task = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const require = createRequire(task.modules)
const { chromium } = require('playwright-core')
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8')

const { slow, soon, full } = task.shims
const SIZES = { phone: { width: 375, height: 740 }, desk: { width: 1280, height: 800 } }
const COPIED = /^[\w.-]{1,128} · \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC · fastly · 50[23]$/
// The counts of pages and beacons that each shim must have at the end.
const counts = Object.fromEntries(Object.keys(task.shims).map((name) => [name, { pages: 0, beacons: 0 }]))
const errors = []

const browser = await chromium.launch({
  executablePath: task.chromium,
  // Chromium's sandbox does not work for root.
  args: process.getuid() === 0 ? ['--no-sandbox'] : [],
})

// Returns a browser context. The pages and beacons in this context are counted, and script errors in this context fail the test.
async function reader(options = {}) {
  const context = await browser.newContext({
    viewport: SIZES.phone,
    ...options,
    extraHTTPHeaders: { 'X-CDN-Provider': 'fastly', ...options.extraHTTPHeaders },
  })
  context.setDefaultTimeout(20_000)
  context.on('response', (response) => {
    const url = new URL(response.url())
    const count = { [slow]: counts.slow, [soon]: counts.soon, [full]: counts.full }[url.origin]
    if (!count || url.pathname === '/favicon.ico') return
    count[url.pathname === '/status/images/beacon.gif' ? 'beacons' : 'pages'] += 1
  })
  context.on('weberror', (error) => errors.push(error.error().stack))
  return context
}

// Opens a page and waits for the response to its beacon.
async function open(page, path = '/some/page', base = slow) {
  const beacon = page.waitForResponse((response) => response.url().includes('/beacon.gif'))
  const response = await page.goto(base + path, { waitUntil: 'load' })
  assert.equal(response.status(), base === full ? 503 : 502)
  return { response, beacon: await beacon }
}

const text = (page, selector) => page.locator(selector).textContent()

async function looksRight(page, tag, words) {
  assert.equal(await page.title(), `${words.heading} – Shop & Söhne`)
  assert.equal(await page.getAttribute('html', 'lang'), tag)
  assert.equal(await page.getAttribute('html', 'dir'), words.direction)
  assert.equal(await text(page, 'header'), 'Shop & Söhne')
  assert.equal(await text(page, 'h1'), words.heading)
  assert.equal(await text(page, 'h1 + p'), words.explanation)
  assert.equal(await text(page, 'h1 + p + p'), words.next_step)
  assert.equal(await text(page, '#again'), words.retry)
  assert.deepEqual(await page.locator('.links a').evaluateAll((all) => all.map((link) => [link.href, link.textContent])), [
    ['https://status.example.com/?a=1&b=2', words.status_link],
    ['https://support.example.com/', words.support_link],
  ])
  assert.equal(await text(page, 'footer > span'), words.reference)
  assert.match((await text(page, '#line')).replace(/\s+/g, ' ').trim(), COPIED)
  const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)
  assert.ok(!wide, `${tag}: the page is wider than the window`)
}

// Checks the default rules of axe-core and target-size, a rule of WCAG 2.2 that is off by default.
async function accessible(page, what) {
  const { violations } = await page.evaluate(() => axe.run({ rules: { 'target-size': { enabled: true } } }))
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(', ')}`)
  assert.deepEqual(found, [], what)
}

async function everyLanguage() {
  for (const [tag, words] of Object.entries(task.locales)) {
    const context = await reader({ locale: tag, permissions: ['clipboard-read', 'clipboard-write'] })
    const page = await context.newPage()
    const { response, beacon } = await open(page)
    assert.equal(response.headers()['content-language'], tag)
    const id = response.headers()['x-request-id']
    assert.equal(beacon.status(), 200)
    assert.equal(beacon.headers()['content-type'], 'image/gif')
    assert.equal(
      beacon.url(),
      `${slow}/status/images/beacon.gif?source=fastly&server_identity=&reason=refused&id=${id}`,
    )
    await looksRight(page, tag, words)

    assert.equal(await text(page, '#stop'), words.stop)
    const countdown = await text(page, '#countdown')
    const wanted = await page.evaluate(([forms, said]) => {
      const number = new Intl.NumberFormat(navigator.language)
      return Array.from({ length: 46 }, (_, seconds) => seconds)
        .map((seconds) => forms[new Intl.PluralRules(navigator.language).select(seconds)].replace('{n}', number.format(seconds)))
        .includes(said)
    }, [words.seconds, countdown])
    assert.ok(wanted, `${tag}: ${countdown}`)

    await page.evaluate(axe)
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme })
      for (const [name, size] of Object.entries(SIZES)) {
        await page.setViewportSize(size)
        await page.screenshot({ path: join(task.pictures, `${tag}-${name}-${colorScheme}.png`), fullPage: true })
      }
      await accessible(page, `${tag}, ${colorScheme}`)
    }

    const line = (await text(page, '#line')).replace(/\s+/g, ' ').trim()
    assert.ok(line.startsWith(`${id} · `), line)
    assert.equal(await text(page, '#copy'), words.copy)
    await page.click('#copy')
    await page.waitForFunction((copied) => document.getElementById('said').textContent === copied, words.copied)
    assert.equal(await text(page, '#copy'), words.copied)
    assert.equal(await page.evaluate(() => navigator.clipboard.readText()), line)
    await context.close()
  }
}

// The only permit is taken, and the queue is full with one request.
async function everyWaitPage() {
  for (const [tag, words] of Object.entries(task.locales)) {
    const one = words.waiting.one?.replace('{n}', 1) ?? words.waiting.other.replace('{n}', 1)
    // Open the page twice: first the server finds the language, then only the script finds the language.
    for (const accept of [tag, 'tlh']) {
      const context = await reader({ locale: tag, extraHTTPHeaders: { 'Accept-Language': accept } })
      const page = await context.newPage()
      const { response, beacon } = await open(page, '/', full)
      assert.equal(response.headers()['retry-after'], '30')
      assert.equal(new URL(beacon.url()).searchParams.get('reason'), 'overload')
      assert.equal(await page.title(), `${words.wait_heading} – Shop & Söhne`)
      assert.equal(await page.getAttribute('html', 'lang'), tag)
      assert.deepEqual(await page.locator('main > :is(h1, p:not(.links, #said))').allTextContents(), [
        words.wait_heading, words.wait_explanation, one, words.wait_next_step,
      ])
      assert.ok(await page.locator('#countdown').isVisible())
      if (accept === tag) {
        await page.evaluate(axe)
        for (const colorScheme of ['light', 'dark']) {
          await page.emulateMedia({ colorScheme })
          const size = colorScheme === 'light' ? 'desk' : 'phone'
          await page.setViewportSize(SIZES[size])
          await page.screenshot({ path: join(task.pictures, `${tag}-wait-${size}-${colorScheme}.png`), fullPage: true })
          await accessible(page, `${tag}, wait page, ${colorScheme}`)
        }
      }
      await context.close()
    }
  }
}

async function withoutScript() {
  for (const tag of ['en', 'ar', 'ja']) {
    const context = await reader({ locale: tag, javaScriptEnabled: false })
    const page = await context.newPage()
    await open(page)
    await looksRight(page, tag, task.locales[tag])
    for (const hidden of ['#copy', '#auto', '#bar']) assert.ok(await page.locator(hidden).isHidden(), hidden)
    await page.screenshot({ path: join(task.pictures, `${tag}-without-script.png`), fullPage: true })
    await Promise.all([page.waitForResponse((response) => response.url() === `${slow}/some/page`), page.click('#again')])
    await page.waitForLoadState('load')
    await context.close()
  }
}

// Accept-Language has no known language, as behind a CDN that replaces this field. The script finds the reader's language.
async function readersOwnLanguage() {
  const context = await reader({ extraHTTPHeaders: { 'Accept-Language': 'tlh' } })
  const page = await context.newPage()
  for (const [wishes, tag] of [
    [['ja'], 'ja'],
    [['ja-JP', 'en'], 'ja'],
    [['iw-IL'], 'he'],
    [['IW'], 'he'],
    [['iwx', 'de'], 'de'],
    [['zh-Hant-TW'], 'zh'],
    [['zh-a-bbb'], 'zh'],
    [['tlh', 'de-AT', 'fr'], 'de'],
    [['pt-BR', 'pt'], 'pt'],
    [['ar-EG'], 'ar'],
    [['PL'], 'pl'],
    [['dex', 'x-de', '-', '', '--', 'tlh'], 'en'],
    [['not a tag!', 'sv'], 'sv'],
    [[], 'en'],
    [null, 'en'],
  ]) {
    await page.addInitScript((languages) => Object.defineProperty(navigator, 'languages', { get: () => languages, configurable: true }), wishes)
    const { response } = await open(page)
    assert.equal(response.headers()['content-language'], 'en')
    await looksRight(page, tag, task.locales[tag]).catch((error) => assert.fail(`${wishes}: ${error}`))
    assert.ok(await page.locator('#countdown').isVisible(), `${wishes}`)
  }
  await context.close()
}

// Opens a page with a controlled clock and a fixed random number.
async function timed(context, dice = 0) {
  const page = await context.newPage()
  await page.clock.install({ time: '2026-11-22T12:00:00Z' })
  await page.clock.pauseAt('2026-11-22T12:00:10Z')
  await page.addInitScript((dice) => { Math.random = () => dice }, dice)
  await open(page)
  return page
}

const english = (seconds) =>
  seconds > 90 ? `Trying again in ${Math.ceil(seconds / 60)} minutes` : `Trying again in ${seconds} seconds`

// Runs `act`, and waits until the page has reloaded and its beacon has a response.
async function reloads(page, act) {
  const beacon = page.waitForResponse((response) => response.url().includes('/beacon.gif'))
  await Promise.all([beacon, page.waitForEvent('load'), act()])
}

async function countsDown() {
  const context = await reader({ locale: 'en-US' })
  const page = await timed(context)
  // Each failed try doubles the wait, up to five minutes.
  for (const seconds of [30, 60, 120, 240, 300, 300]) {
    assert.equal(await text(page, '#countdown'), english(seconds))
    await page.clock.runFor(5000)
    assert.equal(await text(page, '#countdown'), english(seconds - 5))
    await page.clock.fastForward((seconds - 6) * 1000)
    assert.equal(await text(page, '#countdown'), 'Trying again in 1 second')
    await reloads(page, () => page.clock.runFor(1000))
  }
  // The countdown is not announced to screen readers.
  assert.equal(await page.locator('#countdown').evaluate((part) => part.closest('[aria-live], [role=status], [role=alert]')), null)
  assert.equal(await text(page, '#said'), '')
  // Another page starts again with the short wait. The reader can stop the countdown.
  await open(page, '/another/page')
  assert.equal(await text(page, '#countdown'), english(30))
  await page.click('#stop')
  assert.equal(await text(page, '#countdown'), task.locales.en.stopped)
  assert.equal(await text(page, '#said'), task.locales.en.stopped)
  assert.ok((await page.locator('#stop').isHidden()) && (await page.locator('#bar').isHidden()))
  assert.equal(await page.evaluate(() => document.activeElement.id), 'again')
  await page.clock.fastForward(15 * 60_000)
  assert.equal(await text(page, '#countdown'), task.locales.en.stopped)
  // By now the count of failed tries of the first page has expired.
  await open(page)
  assert.equal(await text(page, '#countdown'), english(30))
  await context.close()
}

// The page waits for the time in Retry-After plus up to half of this time, so that readers do not all return at once.
async function jitters() {
  const context = await reader({ locale: 'en-US' })
  for (const [dice, seconds] of [[0, 30], [0.5, 38], [0.999, 45]]) {
    const page = await timed(context, dice)
    assert.equal(await text(page, '#countdown'), english(seconds), `dice ${dice}`)
    await page.close()
  }
  await context.close()
}

// While the page is hidden or offline, it does not reload.
async function waitsForTheReader() {
  const context = await reader({ locale: 'en-US' })
  const page = await timed(context)
  const hide = (hidden) => page.evaluate((hidden) => {
    Object.defineProperty(document, 'hidden', { get: () => hidden, configurable: true })
    document.dispatchEvent(new Event('visibilitychange'))
  }, hidden)
  // Before the page reloads itself, it replaces this text.
  const stillWaits = async () => {
    await page.clock.runFor(120_000)
    assert.equal(await text(page, '#countdown'), 'Trying again in 1 second')
  }
  await hide(true)
  await stillWaits()
  await reloads(page, () => hide(false))
  await context.setOffline(true)
  await stillWaits()
  await reloads(page, () => context.setOffline(false))
  await context.close()
}

// With the real clock, the page also reloads when the countdown ends.
async function reloadsByItself() {
  const context = await reader({ locale: 'en-US' })
  const page = await context.newPage()
  await open(page, '/soon', soon)
  await reloads(page, async () => {})
  await page.click('#stop')
  await context.close()
}

// A page that is the response to a form has no countdown, because a reload would send the form again.
async function asksNothingTwice() {
  const context = await reader({ locale: 'en-US' })
  const page = await timed(context)
  const form = `<form method="post" action="${slow}/order"><button>Order</button></form>`
  await page.setContent(form)
  await reloads(page, () => page.click('button'))
  assert.equal(await text(page, 'h1'), task.locales.en.heading)
  assert.equal(await page.locator('#auto').count(), 0)
  assert.ok(await page.locator('#copy').isVisible())
  const requests = []
  page.on('request', (request) => requests.push(request.url()))
  await page.clock.runFor(600_000)
  assert.deepEqual(requests, [])
  await context.close()
}

// Browsers have no clipboard API on http pages. Without this API, the copy button still works.
async function copiesTheOldWay() {
  const context = await reader({ locale: 'en-US', permissions: ['clipboard-read', 'clipboard-write'] })
  const page = await context.newPage()
  await page.addInitScript(() => {
    window.clipboard = navigator.clipboard
    Object.defineProperty(navigator, 'clipboard', { get: () => undefined })
  })
  await open(page)
  await page.click('#copy')
  await page.waitForFunction(() => document.getElementById('said').textContent)
  assert.match((await page.evaluate(() => window.clipboard.readText())).replace(/\s+/g, ' ').trim(), COPIED)
  await context.close()
}

// The page still works in a browser without Intl and with a forbidden sessionStorage.
async function livesWithLess() {
  const context = await reader({ locale: 'en-US' })
  const page = await context.newPage()
  await page.addInitScript(() => {
    delete window.Intl
    Object.defineProperty(window, 'sessionStorage', { get: () => { throw new Error('forbidden') } })
  })
  await open(page)
  await looksRight(page, 'en', task.locales.en)
  assert.match(await text(page, '#countdown'), /^Trying again in \d\d seconds$/)
  await context.close()
}

// The printed page has no buttons, and shows the targets of the links. With reduced motion, the bar is hidden.
async function prints() {
  const context = await reader({ locale: 'en-US' })
  const page = await context.newPage()
  await open(page)
  await page.emulateMedia({ media: 'print' })
  for (const gone of ['#again', '#countdown', '#copy', 'svg', '#bar']) assert.ok(await page.locator(gone).first().isHidden(), gone)
  assert.ok(await page.locator('#line').isVisible())
  const after = await page.locator('.links a').first().evaluate((link) => getComputedStyle(link, '::after').content)
  assert.equal(after, '" https://status.example.com/?a=1&b=2"')
  await page.screenshot({ path: join(task.pictures, 'en-print.png'), fullPage: true })
  await page.emulateMedia({ media: 'screen', reducedMotion: 'reduce' })
  assert.ok(await page.locator('#bar').isHidden(), 'the bar is hidden')
  await context.close()
}

let failed = false
try {
  for (const part of [
    everyLanguage, everyWaitPage, withoutScript, readersOwnLanguage, countsDown, jitters, waitsForTheReader, reloadsByItself, asksNothingTwice,
    copiesTheOldWay, livesWithLess, prints,
  ]) {
    const started = Date.now()
    await part().catch((error) => {
      failed = true
      console.log(`${part.name}: ${error.stack}`)
    })
    console.log(`${part.name}: ${Date.now() - started} ms`)
  }
  assert.deepEqual(errors, [])
} finally {
  await browser.close()
}
console.log(`COUNTS ${JSON.stringify(counts)}`)
process.exit(failed ? 1 : 0)
