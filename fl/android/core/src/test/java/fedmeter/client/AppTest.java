package fedmeter.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import fedmeter.client.AppState.Phase;
import fedmeter.measurement.MeasurementOuterClass.Reading;
import fedmeter.measurement.MeasurementOuterClass.Span;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.junit.Test;

/** What an app is told, what it tells of its work, and how that ends; with a server: tests/android. */
public final class AppTest {
    private static AppConfig told(Object... pairs) {
        Map<String, Object> extras = new HashMap<>(Map.of("server", "10.0.0.2:8443"));
        for (int i = 0; i < pairs.length; i += 2) {
            extras.put((String) pairs[i], pairs[i + 1]);
        }
        return AppConfig.of(extras);
    }

    private static String refused(Object... pairs) {
        return assertThrows(FedmeterException.Usage.class, () -> told(pairs)).getMessage();
    }

    @Test
    public void whatIsToldIsWhatIsRead() {
        AppConfig config = told("device", "phone-3", "shard", "3", "tls", "", "classes", 10, "hidden", 32L,
                "verbose", true, "android.intent.extra.X", new byte[0]);
        assertEquals("10.0.0.2:8443", config.server());
        assertEquals("phone-3", config.device());
        assertEquals(3, config.shard());
        assertEquals(Optional.empty(), config.tls());
        assertEquals("features-3.npy", config.features());
        assertEquals(10, config.classes());
        assertEquals(32, config.hidden());
        assertTrue(config.isVerbose());
        assertTrue(config.isMetered());
        assertFalse(config.isRaw());
        assertEquals(Optional.of("/data/data/fedmeter.app/files/fedmeter-tls"),
                told("tls", "/data/data/fedmeter.app/files/fedmeter-tls").tls());
        assertEquals("[fe80::1%wlan0]:8443", told("server", "[fe80::1%wlan0]:8443").server());
    }

    @Test
    public void whateverElseIsRefusedWithItsName() {
        assertTrue(assertThrows(FedmeterException.Usage.class, () -> AppConfig.of(Map.of())).getMessage()
                .contains("server is missing"));
        assertTrue(refused("sever", "x").contains("There are base, classes, current_unit, device"));
        for (String name : AppConfig.NAMES) {
            for (Object wrong : new Object[] {"a b", "../x", "x;reboot", 1.5, "\n", "-"}) {
                assertTrue(name, refused(name, wrong).contains(name));
            }
        }
        assertTrue(refused("features", "a/../../b.npy").contains("below the app's own folder"));
        assertTrue(refused("classes", 1).contains("from 2"));
        assertTrue(refused("shard", "-1").contains("shard = -1"));
        assertTrue(refused("current_unit", "A").contains("uA or mA"));
    }

    @Test
    public void filesStayBelowTheirFolder() {
        Path files = Path.of("/sdcard/files");
        assertEquals(Path.of("/sdcard/files/a/b.npy"), AppConfig.below(files, "a/b.npy"));
        for (String wrong : new String[] {"../x", "/etc/passwd", "a/../../x"}) {
            assertThrows(FedmeterException.Usage.class, () -> AppConfig.below(files, wrong));
        }
    }

    private static Span span(double energyJ) {
        return Span.newBuilder().setTotal(Reading.newBuilder().setEnergyJ(energyJ)).build();
    }

    private static Span spanWithout(String reason) {
        return Span.newBuilder().setTotal(Reading.newBuilder().setProvenance("missing").setReason(reason)).build();
    }

    @Test
    public void theStateTellsRoundAndJoulesAndOfWhatTheyAreMissing() {
        List<String> lines = new ArrayList<>();
        AppState state = new AppState(now -> lines.add(now.line()));
        assertTrue(state.begin("lab:8443"));
        assertFalse("one at a time", state.begin("other:8443"));
        state.at(Phase.FITTING, 1);
        state.measured(span(2.5));
        state.at(Phase.WAITING, 0);
        state.measured(span(1.5));
        assertEquals("waiting, round 1, 4.0 J", state.now().line());
        state.measured(spanWithout("charging: plugged is PLUGGED_USB"));
        state.measured(span(1));
        assertEquals("more than 5.0 J: charging: plugged is PLUGGED_USB", state.now().energy());
        state.end(Phase.DONE, "");
        state.at(Phase.FITTING, 9);
        state.measured(span(100));
        assertEquals("an end is one", "done, round 1, more than 5.0 J: charging: plugged is PLUGGED_USB",
                state.now().line());
        assertEquals("starting", lines.get(0));
        assertEquals(8, lines.size());
        assertTrue("and may begin anew", state.begin("other:8443"));
        assertEquals("starting", state.now().line());
        state.measured(spanWithout("no sensor"));
        assertEquals("joules unknown: no sensor", state.now().energy());
        state.refuse("extra sever is not known.");
        assertEquals("what is being done goes on", Phase.STARTING, state.now().phase);
        state.end(Phase.STOPPED, "");
        state.refuse("extra sever is not known.");
        assertEquals(Phase.FAILED, state.now().phase);
        assertEquals("extra sever is not known.", state.now().message);
    }

    @Test
    public void onlyAnEndEndsAndOnlyWorkIsDone() {
        AppState state = new AppState(now -> { });
        state.begin("lab:8443");
        assertThrows(IllegalArgumentException.class, () -> state.at(Phase.DONE, 1));
        assertThrows(IllegalArgumentException.class, () -> state.end(Phase.FITTING, ""));
    }

    @Test
    public void workThatIsInterruptedHasStopped() throws InterruptedException {
        CountDownLatch joining = new CountDownLatch(1);
        AppState state = new AppState(now -> {
            if (now.phase == Phase.JOINING) {
                joining.countDown();
            }
        });
        state.begin("127.0.0.1:1");
        DesktopPlatform platform = new DesktopPlatform(Path.of("/"), Path.of("/"), Optional.empty()) {
            @Override
            public Examples examples(Path images, Path base, int classes) {
                return DenseHeadTrainerTest.examples(5, 6, classes);
            }
        };
        int[] code = new int[1];
        AppConfig config = told("server", "127.0.0.1:1", "images", "photos", "classes", 3); // nobody is there
        Thread worker = new Thread(() -> code[0] = new AppWork(config, platform, state).run());
        worker.start();
        assertTrue(joining.await(30, TimeUnit.SECONDS));
        worker.interrupt();
        worker.join(30_000);
        assertEquals(Phase.STOPPED, state.now().phase);
        assertEquals(130, code[0]);
    }

    @Test
    public void whatCannotBeginFailsInWordsAndLeavesNothingOpen() {
        AppState state = new AppState(now -> { });
        state.begin("10.0.0.2:8443");
        boolean[] isClosed = new boolean[1];
        DesktopPlatform platform = new DesktopPlatform(Path.of("/nonexistent"), Path.of("/"), Optional.empty()) {
            @Override
            public void close() {
                isClosed[0] = true;
            }
        };
        assertEquals(3, new AppWork(told(), platform, state).run());
        assertEquals(Phase.FAILED, state.now().phase);
        assertTrue(state.now().message, state.now().message.contains("/nonexistent/features-0.npy cannot be read"));
        assertTrue(isClosed[0]);
    }
}
