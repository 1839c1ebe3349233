import io.socket.client.IO;
import io.socket.client.Socket;
import io.socket.emitter.Emitter;
import java.util.Arrays;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.json.JSONArray;
import org.json.JSONObject;

/** What the plays have in common. */
abstract class Play {
    /** Longer than anything takes that goes well. */
    static final int DEADLINE_SEC = 20;

    interface Act {
        void perform() throws Exception;
    }

    /** Ends the process, for the HTTP library keeps idle threads alive for a minute. */
    static void perform(Act act) {
        try {
            act.perform();
            say(event("done"));
            System.exit(0);
        } catch (Throwable error) {
            error.printStackTrace();
            System.exit(1);
        }
    }

    static Thread meanwhile(Act act) {
        Thread thread = new Thread(() -> {
            try {
                act.perform();
            } catch (Exception error) {
                error.printStackTrace();
                System.exit(1);
            }
        });
        thread.start();
        return thread;
    }

    static JSONObject event(String name) throws Exception {
        return new JSONObject().put("event", name);
    }

    static synchronized void say(JSONObject what) {
        System.out.println(what);
    }

    static JSONArray list(Object... items) {
        return new JSONArray(Arrays.asList(items));
    }

    static IO.Options options(String transport) {
        IO.Options options = new IO.Options();
        options.forceNew = true;
        options.transports = transport.equals("upgrade")
                ? new String[] {"polling", "websocket"}
                : new String[] {transport};
        return options;
    }

    /** The arguments of everything that comes under an event's name, in order. */
    static BlockingQueue<Object[]> hear(Emitter emitter, String event) {
        BlockingQueue<Object[]> heard = new LinkedBlockingQueue<>();
        emitter.on(event, heard::add);
        return heard;
    }

    static <T> T take(BlockingQueue<T> queue) throws Exception {
        T item = queue.poll(DEADLINE_SEC, TimeUnit.SECONDS);
        if (item == null) {
            throw new IllegalStateException("nothing came within " + DEADLINE_SEC + " s");
        }
        return item;
    }
}
