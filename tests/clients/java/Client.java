import io.socket.client.Ack;
import io.socket.client.IO;
import io.socket.client.Manager;
import io.socket.client.Socket;
import io.socket.emitter.Emitter;
import io.socket.engineio.client.Transport;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.json.JSONArray;
import org.json.JSONObject;

/** The camera of tests/clients/test_real_clients.py, on the Java client 1 or 2: what is used of them is the same. */
public class Client {
    private static final int BURST = 20;
    private static final int IMAGES_AFTER_RETURN = 10;
    /** Longer than anything takes that goes well. */
    private static final int DEADLINE_SEC = 30;

    private final String url;
    private final String transport;
    private final String folder;
    private final String user;
    private final String password;

    Client(String[] args) {
        url = args[0];
        transport = args[1];
        folder = args[2];
        user = args[3];
        password = args[4];
    }

    public static void main(String[] args) throws Exception {
        Thread.setDefaultUncaughtExceptionHandler((thread, error) -> {
            error.printStackTrace();
            System.exit(1);
        });
        Client client = new Client(args);
        Thread refused = new Thread(() -> run(client::beRefused));
        refused.start();
        client.stream(refused);
        say(event("done"));
        // The HTTP library keeps idle threads alive for a minute.
        System.exit(0);
    }

    private interface Play {
        void run() throws Exception;
    }

    private static void run(Play play) {
        try {
            play.run();
        } catch (Exception error) {
            throw new RuntimeException(error);
        }
    }

    private static JSONObject event(String name) throws Exception {
        return new JSONObject().put("event", name);
    }

    private static synchronized void say(JSONObject what) {
        System.out.println(what);
    }

    private static JSONArray list(Object[] args) {
        return new JSONArray(Arrays.asList(args));
    }

    private static <T> T take(BlockingQueue<T> queue) throws Exception {
        T item = queue.poll(DEADLINE_SEC, TimeUnit.SECONDS);
        if (item == null) {
            throw new IllegalStateException("nothing came within " + DEADLINE_SEC + " s");
        }
        return item;
    }

    /** Everything that comes under an event's name, in order. */
    private static BlockingQueue<Object[]> hear(Emitter emitter, String event) {
        BlockingQueue<Object[]> heard = new LinkedBlockingQueue<>();
        emitter.on(event, heard::add);
        return heard;
    }

    private Socket open(IO.Options options) throws Exception {
        options.forceNew = true;
        options.transports = transport.equals("upgrade")
                ? new String[] {"polling", "websocket"}
                : new String[] {transport};
        return IO.socket(url, options);
    }

    private void beRefused() throws Exception {
        IO.Options options = new IO.Options();
        options.reconnection = false;
        Socket socket = open(options);
        BlockingQueue<Object[]> gone = hear(socket, Socket.EVENT_DISCONNECT);
        JSONArray callbacks = new JSONArray();
        long[] refusedAt = new long[1];
        socket.on("onAuthentication", args -> {
            callbacks.put(list(args));
            refusedAt[0] = System.nanoTime();
        });
        socket.on(Socket.EVENT_CONNECT, args -> socket.emit("authenticate", user, password + "x", "onAuthentication"));
        socket.connect();
        take(gone);
        say(event("wrong login")
                .put("callbacks", callbacks)
                .put("disconnected_after_sec", (System.nanoTime() - refusedAt[0]) / 1e9));
    }

    private void stream(Thread refused) throws Exception {
        List<byte[]> images = readImages();
        IO.Options options = new IO.Options();
        options.reconnectionAttempts = 10;
        options.reconnectionDelay = 200;
        options.randomizationFactor = 0;
        Socket socket = open(options);
        BlockingQueue<Object[]> connected = hear(socket, Socket.EVENT_CONNECT);
        BlockingQueue<Object[]> disconnected = hear(socket, Socket.EVENT_DISCONNECT);
        BlockingQueue<Object[]> answered = hear(socket, "onAuthentication");
        BlockingQueue<Object[]> transports = hear(socket.io(), Manager.EVENT_TRANSPORT);
        socket.on("serverError", args -> run(
                () -> say(event("serverError").put("code", args[0]).put("message", args[1]))));
        socket.on("setRate", args -> run(() -> say(event("setRate").put("hz", args[0]))));

        socket.connect();
        take(connected);
        say(event("before login").put("answer", send(socket, images.subList(0, 1), true).get(0)));
        JSONArray callbacks = new JSONArray();
        logIn(socket, answered, callbacks);
        say(event("login").put("callbacks", callbacks));

        JSONObject streamed = event("streamed").put("answers", send(socket, images, true));
        String last = null;
        for (Object[] args : transports) {
            last = ((Transport) args[0]).name;
        }
        say(streamed.put("transport", last));
        say(event("burst").put("answers", send(socket, images.subList(0, BURST), false)));

        refused.join();
        say(event("ready to be dropped"));
        take(disconnected);
        take(connected);
        logIn(socket, answered, callbacks);
        say(event("login after return").put("callbacks", callbacks));
        say(event("streamed after return")
                .put("answers", send(socket, images.subList(0, IMAGES_AFTER_RETURN), true)));

        // Whoever exits now cuts the goodbye short, which another thread sends.
        BlockingQueue<Object[]> closed = hear(socket.io(), Manager.EVENT_CLOSE);
        socket.disconnect();
        take(closed);
    }

    private List<byte[]> readImages() throws Exception {
        List<Path> paths;
        try (Stream<Path> listing = Files.list(Path.of(folder))) {
            paths = listing.sorted().collect(Collectors.toList());
        }
        List<byte[]> images = new ArrayList<>();
        for (Path path : paths) {
            images.add(Files.readAllBytes(path));
        }
        return images;
    }

    private void logIn(Socket socket, BlockingQueue<Object[]> answered, JSONArray callbacks) throws Exception {
        socket.emit("authenticate", user, password, "onAuthentication");
        callbacks.put(list(take(answered)));
    }

    /** Send the images, each after the former's answer or all at once, and return the answers. */
    private static JSONArray send(Socket socket, List<byte[]> images, boolean inTurn) throws Exception {
        BlockingQueue<Object[]> answers = new LinkedBlockingQueue<>();
        JSONArray all = new JSONArray();
        for (byte[] image : images) {
            socket.emit("receiveImage", new Object[] {image}, (Ack) answers::add);
            if (inTurn) {
                all.put(take(answers)[0]);
            }
        }
        while (all.length() < images.size()) {
            all.put(take(answers)[0]);
        }
        return all;
    }
}
